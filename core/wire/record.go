package wire

import (
	"encoding/binary"
	"fmt"
)

// RecordType is the first plaintext byte of a v2 record.
type RecordType byte

// The records of v2. C is sent by the client, E by the enclave.
const (
	RecordBegin    RecordType = 0x01 // C Begin
	RecordData     RecordType = 0x02 // both, see AppendDataHead
	RecordEnd      RecordType = 0x03 // C End, E Result
	RecordError    RecordType = 0x04 // E Failure
	RecordLog      RecordType = 0x05 // E Log
	RecordAccepted RecordType = 0x06 // E Accepted
	RecordCancel   RecordType = 0x07 // C Cancel
	RecordDeployed RecordType = 0x08 // E Deployed
	RecordWindow   RecordType = 0x09 // both, Window
)

// Message is the body of every record but data: a pointer to one of the structs of
// message.go.
type Message interface {
	recordType() RecordType
	validate() error
}

// TypeOf returns the type of a record, 0 for an empty one.
func TypeOf(record []byte) RecordType {
	if len(record) == 0 {
		return 0
	}
	return RecordType(record[0])
}

// AppendMessage appends the record of m to dst.
func AppendMessage(dst []byte, m Message) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	body, err := Marshal(m)
	if err != nil {
		return nil, err
	}
	return append(append(dst, byte(m.recordType())), body...), nil
}

// ParseFromClient decodes a record that a client sent, data aside: *Begin, *End, *Cancel or
// *Window.
func ParseFromClient(record []byte) (Message, error) {
	switch TypeOf(record) {
	case RecordBegin:
		return parse(record, &Begin{})
	case RecordEnd:
		return parse(record, &End{})
	case RecordCancel:
		return parse(record, &Cancel{})
	case RecordWindow:
		return parse(record, &Window{})
	}
	return nil, fmt.Errorf("%w: record of type %d from a client", ErrMalformed, TypeOf(record))
}

// ParseFromEnclave decodes a record that an enclave sent, data aside: *Accepted, *Result,
// *Failure, *Log, *Deployed or *Window.
func ParseFromEnclave(record []byte) (Message, error) {
	switch TypeOf(record) {
	case RecordEnd:
		return parse(record, &Result{})
	case RecordError:
		return parse(record, &Failure{})
	case RecordLog:
		return parse(record, &Log{})
	case RecordAccepted:
		return parse(record, &Accepted{})
	case RecordDeployed:
		return parse(record, &Deployed{})
	case RecordWindow:
		return parse(record, &Window{})
	}
	return nil, fmt.Errorf("%w: record of type %d from an enclave", ErrMalformed, TypeOf(record))
}

func parse(record []byte, m Message) (Message, error) {
	if err := Unmarshal(record[1:], MaxControl-1, m); err != nil {
		return nil, fmt.Errorf("reading record of type %d: %w", record[0], err)
	}
	return checked(m)
}

// checked returns v only if it is sound.
func checked[T interface{ validate() error }](v T) (T, error) {
	var none T
	if err := v.validate(); err != nil {
		return none, err
	}
	return v, nil
}

// MaxDataHead is the most bytes that stand before the payload of a data record.
const MaxDataHead = 1 + 9

// AppendDataHead appends what stands before the payload of a data record: the type, and id
// as a CBOR unsigned integer in its shortest form.
func AppendDataHead(dst []byte, id uint64) []byte {
	dst = append(dst, byte(RecordData))
	switch {
	case id < 24:
		return append(dst, byte(id))
	case id < 1<<8:
		return append(dst, 24, byte(id))
	case id < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 25), uint16(id))
	case id < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, 26), uint32(id))
	}
	return binary.BigEndian.AppendUint64(append(dst, 27), id)
}

// ParseData returns id and payload of a data record. The payload is a part of record, of 1
// to DataPayload bytes. It allocates nothing.
func ParseData(record []byte) (id uint64, payload []byte, err error) {
	if TypeOf(record) != RecordData || len(record) < 3 {
		return 0, nil, errData
	}
	first, rest := record[1], record[2:]
	if first < 24 {
		id, payload = uint64(first), rest
	} else if id, payload, err = longID(first, rest); err != nil {
		return 0, nil, err
	}
	if id == 0 || len(payload) == 0 || len(payload) > DataPayload {
		return 0, nil, errData
	}
	return id, payload, nil
}

var errData = fmt.Errorf("%w: data record without an id, or with a payload of no bytes or too many", ErrMalformed)

// longID reads an id of more than one byte and refuses forms longer than needed.
func longID(first byte, b []byte) (uint64, []byte, error) {
	var id, least uint64
	size := 1 << (first - 24)
	if first > 27 || len(b) < size {
		return 0, nil, errData
	}
	switch size {
	case 1:
		id, least = uint64(b[0]), 24
	case 2:
		id, least = uint64(binary.BigEndian.Uint16(b)), 1<<8
	case 4:
		id, least = uint64(binary.BigEndian.Uint32(b)), 1<<16
	case 8:
		id, least = binary.BigEndian.Uint64(b), 1<<32
	}
	if id < least {
		return 0, nil, errData
	}
	return id, b[size:], nil
}
