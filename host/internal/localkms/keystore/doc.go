// Package keystore keeps small records in a directory, each sealed under one
// master key, each replaced whole or not at all.
//
// The master key lies beside the records, in a file that only its owner may
// read: sealing keeps keys out of backups of single files and binds each
// record to its name, and does not keep anything from the machine's operator.
package keystore

import "errors"

var (
	// ErrInUse: another process has the directory open.
	ErrInUse = errors.New("directory is in use by another process")
	// ErrPermissions: the master key is readable by others.
	ErrPermissions = errors.New("master key is readable by others")
	// ErrCorrupt: a record was not sealed under this master key and name.
	ErrCorrupt = errors.New("record cannot be opened")
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("no such record")
	// ErrName: the name of a record has other characters than a-z, 0-9 and "-".
	ErrName = errors.New("invalid record name")
)

// MaxRecord bounds one record in bytes.
const MaxRecord = 8 << 20
