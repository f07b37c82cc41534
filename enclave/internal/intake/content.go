package intake

import (
	"bufio"
	"compress/flate"
	"context"
	"errors"
	"hash"
	"hash/crc32"
	"io"
)

// eachFile hands the content of every file to visit, in the order of the zip's
// directory. The content ends with an error unless it is exactly what the
// directory says: size and checksum.
func eachFile(ctx context.Context, r io.ReaderAt, entries []*entry, visit func(*entry, io.Reader) error) error {
	buffered := bufio.NewReaderSize(nil, 64<<10)
	inflater := flate.NewReader(buffered)
	defer inflater.Close()
	for _, e := range entries {
		if e.folder {
			continue
		}
		buffered.Reset(io.NewSectionReader(r, e.data, e.packed))
		c := &content{ctx: ctx, e: e, in: buffered, sum: crc32.NewIEEE()}
		if e.method == methodDeflate {
			if err := inflater.(flate.Resetter).Reset(buffered, nil); err != nil {
				return err
			}
			c.in = inflater
		}
		if err := visit(e, c); err != nil {
			return err
		}
		if !c.done {
			return errDamaged
		}
	}
	return nil
}

// content counts while it is read: what a header says of a size is only ever
// compared, never believed.
type content struct {
	ctx  context.Context
	e    *entry
	in   io.Reader
	sum  hash.Hash32
	read int64
	done bool
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.in.Read(p)
	c.sum.Write(p[:n])
	c.read += int64(n)
	switch {
	case c.read > c.e.size:
		return 0, refuse("%s unpacks to more than the zip says", c.e.name)
	case errors.Is(err, io.EOF):
		if c.read != c.e.size || c.sum.Sum32() != c.e.crc {
			return 0, refuse("%s is damaged: size or checksum are wrong", c.e.name)
		}
		c.done = true
	case err != nil:
		return 0, refuse("%s is damaged", c.e.name)
	}
	return n, err
}
