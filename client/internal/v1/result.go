package v1

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/wire"
)

const (
	// maxRest bounds a result's frame without its output.
	maxRest = 2 * wire.MaxTextFrame
	// maxNesting bounds the frame's JSON; an honest one has three levels.
	maxNesting = 8
	maxName    = 256
)

// splitResult reads the frame of a result and takes the output, {"message":{"message":
// base64}}, out of it while it comes: it is decoded into memory once, where decoding the
// whole frame as JSON would hold it five times. rest is the frame with "" in its place.
// Whether rest is proper JSON is for its decoder to say.
func splitResult(r io.Reader, limit int64) (output, rest []byte, err error) {
	s := &splitter{in: bufio.NewReaderSize(r, 64<<10), limit: limit}
	for {
		c, err := s.in.ReadByte()
		if errors.Is(err, io.EOF) {
			return s.output.Bytes(), s.rest.Bytes(), nil
		}
		if err != nil {
			return nil, nil, err
		}
		if err := s.take(c); err != nil {
			return nil, nil, err
		}
		if s.rest.Len() > maxRest {
			return nil, nil, fmt.Errorf("%w: the server's answer has more than %d bytes beside its output", link.ErrTooLarge, maxRest)
		}
	}
}

type splitter struct {
	in     *bufio.Reader
	limit  int64
	rest   bytes.Buffer
	output bytes.Buffer
	found  bool
	levels []level
}

// level is one object or array that is open.
type level struct {
	object bool
	name   string // of the value that comes or came last
	naming bool   // the next string is a name
}

func (s *splitter) top() *level {
	if len(s.levels) == 0 {
		return &level{}
	}
	return &s.levels[len(s.levels)-1]
}

func (s *splitter) take(c byte) error {
	if c == '"' {
		return s.text()
	}
	s.rest.WriteByte(c)
	switch c {
	case '{', '[':
		if len(s.levels) == maxNesting {
			return fmt.Errorf("%w: its answer is nested too deeply", link.ErrProtocol)
		}
		s.levels = append(s.levels, level{object: c == '{', naming: c == '{'})
	case '}', ']':
		if len(s.levels) > 0 {
			s.levels = s.levels[:len(s.levels)-1]
		}
	case ':':
		s.top().naming = false
	case ',':
		s.top().naming = s.top().object
	}
	return nil
}

// text takes a string, whose opening quote was read.
func (s *splitter) text() error {
	if len(s.levels) == 2 && !s.top().naming && s.levels[0].name == "message" && s.levels[1].name == "message" {
		return s.takeOutput()
	}
	begin := s.rest.Len() + 1
	s.rest.WriteByte('"')
	for escaped := false; ; {
		c, err := s.in.ReadByte()
		if err != nil {
			return unfinished(err)
		}
		s.rest.WriteByte(c)
		if s.rest.Len() > maxRest {
			return nil // the caller says so
		}
		if c == '"' && !escaped {
			break
		}
		escaped = c == '\\' && !escaped
	}
	if top := s.top(); top.naming {
		name := s.rest.Bytes()[begin : s.rest.Len()-1]
		top.name = string(name[:min(len(name), maxName)])
	}
	return nil
}

func (s *splitter) takeOutput() error {
	if s.found {
		return fmt.Errorf("%w: its answer holds two outputs", link.ErrProtocol)
	}
	s.found = true
	s.rest.WriteString(`""`)
	text := &quoted{in: s.in}
	_, err := s.output.ReadFrom(io.LimitReader(base64.NewDecoder(base64.StdEncoding, text), s.limit+1))
	switch {
	case int64(s.output.Len()) > s.limit:
		return fmt.Errorf("%w: the result has more than %d bytes", link.ErrTooLarge, s.limit)
	case text.err != nil:
		return unfinished(text.err)
	case err != nil || !text.done:
		return fmt.Errorf("%w: the output is not base64", link.ErrProtocol)
	}
	return nil
}

func unfinished(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: its answer ends within a string", link.ErrProtocol)
	}
	return err
}

// quoted reads a JSON string up to its closing quote. The only escape that base64 can
// hold is that of the slash.
type quoted struct {
	in   *bufio.Reader
	done bool
	err  error // of in
}

func (q *quoted) Read(p []byte) (int, error) {
	if q.done {
		return 0, io.EOF
	}
	if _, err := q.in.Peek(1); err != nil {
		q.err = err
		return 0, err
	}
	chunk, _ := q.in.Peek(min(len(p), q.in.Buffered())) // that much is there
	n := copy(p, chunk)
	if i := bytes.IndexAny(p[:n], "\"\\\r\n"); i >= 0 {
		n = i
	}
	if n > 0 {
		_, err := q.in.Discard(n)
		return n, err
	}
	c, err := q.in.ReadByte()
	if err != nil {
		q.err = err
		return 0, err
	}
	switch c {
	case '"':
		q.done = true
		return 0, io.EOF
	case '\\':
		if c, err = q.in.ReadByte(); err == nil && c == '/' {
			p[0] = '/'
			return 1, nil
		}
	}
	return 0, link.ErrProtocol
}
