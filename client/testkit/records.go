package testkit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
)

// grantEvery is how many bytes are taken before as many are granted.
const grantEvery = 1 << 20

var errCancelled = &wire.RemoteError{Code: wire.CodeUnavailable, Text: "a call was cancelled"}

// next returns the next id of which everything has come.
func (c *sealedSession) next(ctx context.Context) (uint64, error) {
	for len(c.ended) == 0 {
		if err := c.receive(ctx); err != nil {
			return 0, err
		}
	}
	id := c.ended[0]
	c.ended = c.ended[1:]
	return id, nil
}

// receive takes one record.
func (c *sealedSession) receive(ctx context.Context) error {
	_, frame, err := c.ws.Read(ctx)
	if err != nil {
		return err
	}
	if c.lying().DropUpload && len(c.begun) > 0 {
		return c.ws.CloseNow()
	}
	record, err := c.channel.In.Open(frame)
	if err != nil {
		return err
	}
	if wire.TypeOf(record) == wire.RecordData {
		return c.receiveData(ctx, record)
	}
	m, err := wire.ParseFromClient(record)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *wire.Begin:
		c.begun[m.ID], c.inputs[m.ID], c.credit[m.ID] = m, &bytes.Buffer{}, wire.InitialCredit
	case *wire.End:
		if c.inputs[m.ID] == nil {
			return fmt.Errorf("%w: an end without a beginning", wire.ErrMalformed)
		}
		c.ended = append(c.ended, m.ID)
	case *wire.Window:
		c.credit[m.ID] += int64(m.Bytes)
	case *wire.Cancel:
		return errCancelled
	}
	return nil
}

func (c *sealedSession) receiveData(ctx context.Context, record []byte) error {
	id, payload, err := wire.ParseData(record)
	if err != nil {
		return err
	}
	in := c.inputs[id]
	if in == nil {
		return fmt.Errorf("%w: data without a beginning", wire.ErrMalformed)
	}
	before := in.Len() / grantEvery
	in.Write(payload)
	if in.Len()/grantEvery > before && !c.lying().Sealed.NoCredit {
		return c.send(ctx, &wire.Window{ID: id, Bytes: grantEvery})
	}
	return nil
}

// invoke answers one input.
func (c *sealedSession) invoke(ctx context.Context, f *Function, id uint64) error {
	input := c.inputs[id].Bytes()
	delete(c.inputs, id)
	if c.lying().Hang {
		for {
			if err := c.receive(ctx); err != nil {
				return err
			}
		}
	}
	plain, err := c.decrypt(f, input)
	if err != nil {
		return c.send(ctx, wire.FailureOf(id, wire.CodeInvalidRequest, err.Error()))
	}
	if f.Logs != "" && c.owns(f) {
		if err := c.send(ctx, &wire.Log{ID: id, Stream: wire.StreamStdout, Data: []byte(f.Logs)}); err != nil {
			return err
		}
	}
	output, err := f.Handler(plain)
	if err != nil {
		return c.send(ctx, wire.FailureOf(id, wire.CodeFunctionError, err.Error()))
	}
	if err := c.sendOutput(ctx, id, output); err != nil {
		return err
	}
	in, out := sha256.Sum256(input), sha256.Sum256(output)
	sums := wire.Checksums{Input: in[:], Function: f.checksum(), Output: out[:]}
	r := &wire.Result{ID: id, Checksums: sums}
	if r.Receipt, r.Openings, err = c.notary.Sign(id, sums, time.Now()); err != nil {
		return err
	}
	if lie := c.lying().Sealed.Result; lie != nil {
		lie(r)
	}
	return c.send(ctx, r)
}

// owns tells whether the session is that of the function's owner.
func (c *sealedSession) owns(f *Function) bool {
	return c.opened.Acct != nil && (f.Key == nil || account.Public(f.Key).ID() == *c.opened.Acct)
}

func (c *sealedSession) sendOutput(ctx context.Context, id uint64, output []byte) error {
	for len(output) > 0 {
		n := int(min(int64(len(output)), wire.DataPayload, c.credit[id]))
		if n == 0 {
			if err := c.receive(ctx); err != nil {
				return err
			}
			continue
		}
		c.credit[id] -= int64(n)
		if err := c.sendRecord(ctx, append(wire.AppendDataHead(nil, id), output[:n]...)); err != nil {
			return err
		}
		output = output[n:]
	}
	return nil
}

func (c *sealedSession) send(ctx context.Context, m wire.Message) error {
	record, err := wire.AppendMessage(nil, m)
	if err != nil {
		return err
	}
	return c.sendRecord(ctx, record)
}

func (c *sealedSession) sendRecord(ctx context.Context, record []byte) error {
	lies := c.lying().Sealed
	records := [][]byte{record}
	if lies.Records != nil {
		records = lies.Records(record)
	}
	for _, record := range records {
		frame, err := c.channel.Out.Seal(record)
		if err != nil {
			return err
		}
		frames := [][]byte{frame}
		if lies.Frames != nil {
			frames = lies.Frames(frame)
		}
		for _, frame := range frames {
			if err := c.ws.Write(ctx, websocket.MessageBinary, frame); err != nil {
				return err
			}
		}
	}
	return nil
}

// logsOf returns what a function prints that says "# prints TEXT".
func logsOf(zip []byte) string {
	_, rest, ok := strings.Cut(source(zip), "# prints ")
	if !ok {
		return ""
	}
	line, _, _ := strings.Cut(rest, "\n")
	return line + "\n"
}
