package intake

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"

	"github.com/cape-functions/cape/core/wire"
)

// Records of a zip (PKWARE APPNOTE 6.3.10, 4.3). Everything is little-endian.
const (
	sigLocal     = 0x04034b50
	sigCentral   = 0x02014b50
	sigEnd       = 0x06054b50
	sigEnd64     = 0x06064b50
	sigLocator64 = 0x07064b50

	lenLocal     = 30
	lenCentral   = 46
	lenEnd       = 22
	lenEnd64     = 56
	lenLocator64 = 20

	methodStore   = 0
	methodDeflate = 8

	flagEncrypted = 1<<0 | 1<<6 | 1<<13
	flagKnown     = 1<<1 | 1<<2 | 1<<3 | 1<<11 // deflate options, sizes after the data, UTF-8
)

var errDamaged = refuse("the zip is damaged, or is not one")

// entry is one line of the central directory.
type entry struct {
	name   string // without the slash of a folder
	folder bool
	method uint16
	crc    uint32
	packed int64
	size   int64
	header int64 // offset of the local header
	data   int64 // offset of the content, set by locate
}

// end is what the last record says of the central directory.
type end struct {
	count        uint64
	size, offset int64
}

// readDirectory reads the central directory, which must lie directly before the
// records that point to it: nothing may hide between them.
func readDirectory(ctx context.Context, r io.ReaderAt, size int64) ([]*entry, error) {
	e, err := readEnd(r, size)
	if err != nil {
		return nil, err
	}
	if e.size > wire.MaxFunctionDirectory {
		return nil, refuse("the names in the zip take more than %d bytes together", wire.MaxFunctionDirectory)
	}
	if e.count > wire.MaxFunctionFiles {
		return nil, refuse("the zip has %d entries, at most %d are allowed", e.count, wire.MaxFunctionFiles)
	}
	in := bufio.NewReaderSize(io.NewSectionReader(r, e.offset, e.size), 64<<10)
	var entries []*entry
	for uint64(len(entries)) < e.count {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		one, err := readCentral(in, e.offset)
		if err != nil {
			return nil, err
		}
		entries = append(entries, one)
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, errDamaged
	}
	return entries, nil
}

// readEnd finds the end record and, for a large zip, its 64-bit form.
func readEnd(r io.ReaderAt, size int64) (*end, error) {
	tail := make([]byte, min(size, lenEnd+math.MaxUint16))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, errDamaged
	}
	at := -1
	for i := len(tail) - lenEnd; i >= 0; i-- {
		if binary.LittleEndian.Uint32(tail[i:]) == sigEnd && int(binary.LittleEndian.Uint16(tail[i+20:])) == len(tail)-i-lenEnd {
			at = i
			break
		}
	}
	if at < 0 {
		return nil, errDamaged
	}
	b, le := tail[at:], binary.LittleEndian
	if le.Uint16(b[4:]) != 0 && le.Uint16(b[4:]) != math.MaxUint16 {
		return nil, refuse("the zip is one part of several")
	}
	e := &end{count: uint64(le.Uint16(b[10:])), size: int64(le.Uint32(b[12:])), offset: int64(le.Uint32(b[16:]))}
	stop := size - int64(len(tail)) + int64(at)
	if e.count == math.MaxUint16 || e.size == math.MaxUint32 || e.offset == math.MaxUint32 {
		var err error
		if e, stop, err = readEnd64(r, stop, e); err != nil {
			return nil, err
		}
	}
	if e.offset < 0 || e.size < 0 || e.offset > stop || e.size != stop-e.offset {
		return nil, errDamaged
	}
	return e, nil
}

// readEnd64 reads the 64-bit records before the end record at stop. Without
// them the values of the end record, large as they look, are what they are.
func readEnd64(r io.ReaderAt, stop int64, e *end) (*end, int64, error) {
	b, le := make([]byte, lenEnd64), binary.LittleEndian
	locator := stop - lenLocator64
	if locator < lenEnd64 {
		return e, stop, nil
	}
	if _, err := r.ReadAt(b[:lenLocator64], locator); err != nil {
		return nil, 0, errDamaged
	}
	if le.Uint32(b) != sigLocator64 {
		return e, stop, nil
	}
	at := int64(le.Uint64(b[8:]))
	if at < 0 || at > locator-lenEnd64 {
		return nil, 0, errDamaged
	}
	if _, err := r.ReadAt(b, at); err != nil || le.Uint32(b) != sigEnd64 || le.Uint64(b[4:]) != uint64(locator-at-12) {
		return nil, 0, errDamaged
	}
	return &end{count: le.Uint64(b[32:]), size: int64(le.Uint64(b[40:])), offset: int64(le.Uint64(b[48:]))}, at, nil
}

// readCentral reads one entry. start is where the central directory begins:
// everything else lies before it.
func readCentral(in *bufio.Reader, start int64) (*entry, error) {
	var b [lenCentral]byte
	le := binary.LittleEndian
	if _, err := io.ReadFull(in, b[:]); err != nil || le.Uint32(b[:]) != sigCentral {
		return nil, errDamaged
	}
	nameLen, extraLen, commentLen := le.Uint16(b[28:]), le.Uint16(b[30:]), le.Uint16(b[32:])
	if nameLen == 0 || nameLen > wire.MaxPathBytes {
		return nil, refuse("a name in the zip has %d bytes, 1 to %d are allowed", nameLen, wire.MaxPathBytes)
	}
	rest := make([]byte, int(nameLen)+int(extraLen))
	if _, err := io.ReadFull(in, rest); err != nil {
		return nil, errDamaged
	}
	if _, err := in.Discard(int(commentLen)); err != nil {
		return nil, errDamaged
	}
	e := &entry{
		method: le.Uint16(b[10:]), crc: le.Uint32(b[16:]), packed: int64(le.Uint32(b[20:])), size: int64(le.Uint32(b[24:])),
		header: int64(le.Uint32(b[42:])),
	}
	if err := e.extend(rest[nameLen:]); err != nil {
		return nil, err
	}
	if e.packed < 0 || e.size < 0 || e.header < 0 || e.header > start || e.packed > start-e.header {
		return nil, errDamaged
	}
	if err := e.setName(rest[:nameLen]); err != nil {
		return nil, err
	}
	return e, e.checkKind(le.Uint16(b[4:]), le.Uint16(b[8:]), le.Uint32(b[38:]))
}

// extend replaces sizes that did not fit 32 bits by those of the extra field 1.
func (e *entry) extend(extra []byte) error {
	le := binary.LittleEndian
	for len(extra) >= 4 {
		id, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		if len(extra) < 4+n {
			return errDamaged
		}
		field := extra[4 : 4+n]
		extra = extra[4+n:]
		if id != 1 {
			continue
		}
		for _, v := range []*int64{&e.size, &e.packed, &e.header} {
			if *v != math.MaxUint32 {
				continue
			}
			if len(field) < 8 {
				return errDamaged
			}
			*v = int64(le.Uint64(field))
			field = field[8:]
		}
		return nil
	}
	return nil
}

// checkKind refuses what is neither a plain file nor a folder. made, flags and
// attributes are fields of the central directory.
func (e *entry) checkKind(made, flags uint16, attributes uint32) error {
	const (
		unix, macOS = 3, 19
		typeMask    = 0o170000
		typeFile    = 0o100000
		typeFolder  = 0o040000
	)
	if flags&flagEncrypted != 0 {
		return refuse("%s is encrypted; deploy a zip without a password", e.name)
	}
	if flags&^flagKnown != 0 || e.method != methodStore && e.method != methodDeflate {
		return refuse("%s is packed in a way that is not supported: only stored and deflated files are", e.name)
	}
	if system := made >> 8; system == unix || system == macOS {
		switch kind := attributes >> 16 & typeMask; {
		case kind == 0, kind == typeFile && !e.folder, kind == typeFolder && e.folder:
		default:
			return refuse("%s is neither a file nor a folder: links, devices and the like are not allowed", e.name)
		}
	}
	if e.folder && e.size != 0 {
		return refuse("%s is a folder with content", e.name)
	}
	if e.method == methodStore && e.packed != e.size {
		return errDamaged
	}
	return nil
}

// locate reads the local headers, which must say the same as the directory, and
// refuses entries that share bytes: overlapping ones unpack to far more than was sent.
func locate(ctx context.Context, r io.ReaderAt, entries []*entry) error {
	le := binary.LittleEndian
	b := make([]byte, lenLocal+wire.MaxPathBytes+1)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		written := len(e.name)
		if e.folder {
			written++
		}
		head := b[:lenLocal+written]
		if _, err := r.ReadAt(head, e.header); err != nil || le.Uint32(head) != sigLocal {
			return errDamaged
		}
		name := bytes.TrimSuffix(head[lenLocal:], []byte("/"))
		if le.Uint16(head[8:]) != e.method || int(le.Uint16(head[26:])) != written || string(name) != e.name {
			return refuse("%s has another name or form in its own header than in the zip's directory", e.name)
		}
		e.data = e.header + int64(lenLocal+written) + int64(le.Uint16(head[28:]))
	}
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b *entry) int { return cmp.Compare(a.header, b.header) })
	var used int64
	for _, e := range sorted {
		if e.header < used {
			return refuse("%s shares its bytes with another entry", e.name)
		}
		used = e.data + e.packed
	}
	return nil
}
