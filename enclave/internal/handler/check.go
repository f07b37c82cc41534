package handler

import (
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
	"github.com/cape-functions/cape/enclave/python"
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
	verdict, err := h.judge(ctx, source)
	switch {
	case err != nil:
		return err
	case verdict == "\x00":
		return nil
	case strings.HasSuffix(verdict, "\x00"):
		return fmt.Errorf("%w: %s", intake.ErrInvalid, strings.ToValidUTF8(strings.TrimSuffix(verdict, "\x00"), "\uFFFD"))
	}
	return fmt.Errorf("%w: app.py cannot be compiled: Python needs too much memory for it, or crashes", intake.ErrInvalid)
}

// judge runs check.py, whose verdict ends with a zero byte.
func (h *Host) judge(ctx context.Context, source []byte) (string, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer inW.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		return "", err
	}
	defer outR.Close()
	jail, err := h.sandbox.Start(ctx, sandbox.Spec{
		Args: h.program(python.Check), ReadOnly: h.show, Name: "check", Limits: checkLimits, Files: []*os.File{inR, outW},
	})
	inR.Close()
	outW.Close()
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { jail.Close() })
	defer stop()
	deadline := time.Now().Add(checkTime)
	if err := errors.Join(inW.SetWriteDeadline(deadline), outR.SetReadDeadline(deadline)); err != nil {
		return "", errors.Join(err, jail.Close())
	}
	_, writing := inW.Write(source)
	inW.Close()
	verdict, reading := io.ReadAll(io.LimitReader(outR, maxVerdict))
	if err := errors.Join(jail.Close(), ctx.Err()); err != nil {
		return "", err
	}
	if err := errors.Join(writing, reading); errors.Is(err, os.ErrDeadlineExceeded) {
		return "", fmt.Errorf("%w: app.py takes Python longer than %s to compile", intake.ErrInvalid, checkTime)
	}
	return string(verdict), nil
}
