package handler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/sandbox"
)

const (
	// checkTime bounds the compiling of app.py.
	checkTime = 20 * time.Second
	// maxVerdict bounds what the check may say.
	maxVerdict = 4 << 10
)

// checkLimits bound the jail in which app.py is compiled: the largest source
// allowed needs less than a gigabyte.
var checkLimits = sandbox.Limits{Memory: 1 << 30, Scratch: 1 << 20, Procs: 8}

// Check reads app.py in a jail and runs nothing of it. It refuses, with an
// error that wraps intake.ErrInvalid, what does not compile or does not bind
// cape_handler at top level.
func (h *Host) Check(ctx context.Context, source []byte) error {
	if len(source) > wire.MaxHandlerSource {
		return fmt.Errorf("%w: app.py has %d bytes, at most %d are allowed; move code to other files", intake.ErrInvalid, len(source), wire.MaxHandlerSource)
	}
	verdict, ok, err := h.judge(ctx, source)
	switch {
	case err != nil:
		return err
	case ok && verdict == "":
		return nil
	case ok:
		return fmt.Errorf("%w: %s", intake.ErrInvalid, strings.ToValidUTF8(verdict, "\uFFFD"))
	}
	return fmt.Errorf("%w: app.py cannot be compiled: Python needs too much memory for it, or crashes", intake.ErrInvalid)
}

// judge has check.py read source. ok is false when it could not.
func (h *Host) judge(ctx context.Context, source []byte) (verdict string, ok bool, err error) {
	jail, err := h.sandbox.Start(ctx, sandbox.Spec{Check: true, Name: "check", Limits: checkLimits})
	if err != nil {
		return "", false, err
	}
	return examine(ctx, jail, source)
}

// examine is judge in a jail that has become one, and ends it.
func examine(ctx context.Context, jail *sandbox.Jail, source []byte) (verdict string, ok bool, err error) {
	defer jail.In.Close()
	defer jail.Out.Close()
	stop := context.AfterFunc(ctx, func() { jail.Close() })
	defer stop()
	deadline := time.Now().Add(checkTime)
	if err := errors.Join(jail.In.SetWriteDeadline(deadline), jail.Out.SetReadDeadline(deadline)); err != nil {
		return "", false, errors.Join(err, jail.Close())
	}
	head := make([]byte, frameHead)
	putHead(head, kindInput, len(source))
	if _, err = jail.In.Write(head); err == nil {
		_, err = jail.In.Write(source)
	}
	var body []byte
	if err == nil {
		var size int
		r := bufio.NewReader(jail.Out)
		if _, size, err = readHead(r, string(kindVerdict)); err == nil {
			body = make([]byte, size)
			_, err = io.ReadFull(r, body)
		}
	}
	if err := errors.Join(jail.Close(), ctx.Err()); err != nil {
		return "", false, err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", false, fmt.Errorf("%w: app.py takes Python longer than %s to compile", intake.ErrInvalid, checkTime)
	}
	return string(body), err == nil, nil
}
