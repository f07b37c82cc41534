package handler

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/sandbox"
)

// Sentinels of Invoke.
var (
	// ErrTimeout: the call, or the import of the function, took too long. The
	// process is gone.
	ErrTimeout = errors.New("function took too long")
	// ErrOutOfMemory: the function needed more memory than it may have.
	ErrOutOfMemory = errors.New("function ran out of memory")
	// ErrTooLarge: the input or the result is larger than allowed.
	ErrTooLarge = errors.New("input or result is too large")
	// ErrEnded: the process ended: it exited, was killed, broke the protocol, or
	// was closed. Errors that wrap it say which.
	ErrEnded = errors.New("function's process ended")
)

// FunctionError is an exception of the function. All fields are the function's
// own words: bounded, valid UTF-8, never to be logged.
type FunctionError struct {
	Type      string // "ValueError"
	Message   string
	Traceback string // for the function's owner alone
}

func (e *FunctionError) Error() string {
	if e.Message == "" {
		return e.Type
	}
	return fmt.Sprintf("%s: %s", e.Type, e.Message)
}

// Config says what a Host runs.
type Config struct {
	// Python is the interpreter: a path, or a name to be found in PATH.
	Python string
	// Scratch is a directory that belongs to the runtime alone.
	Scratch string
	Sandbox *sandbox.Sandbox
}

// Host starts handler processes.
type Host struct{}

// New asks the interpreter where it lives and writes the worker's files below
// Scratch.
func New(Config) (*Host, error) { return nil, sandbox.ErrSetup }

// Python is the interpreter's version in the form of wire.Release: "3.11".
func (h *Host) Python() string { return "" }

// Platform is the interpreter's platform in the form of wire.Release: "linux-x86_64".
func (h *Host) Platform() string { return "" }

// Close ends nothing but removes the worker's files.
func (h *Host) Close() error { return nil }

// Options are one connection's.
type Options struct {
	Tree   string // absolute path of the unpacked function, shared read-only
	Work   string // folder below Tree that holds app.py: intake.Layout.Work
	Limits wire.LimitsConfig
	// Stdout and Stderr get what the function prints, bounded; what comes faster
	// than they take it is dropped. nil: nothing is kept.
	Stdout, Stderr io.Writer
	// RPC answers one request of cape_encrypt: "CapeEncryptRPC.Encrypt" with the
	// plaintext, "CapeEncryptRPC.Decrypt" with the envelope; the answer is the
	// envelope or the plaintext. Its error's text is shown to the function. nil: refused.
	RPC func(ctx context.Context, method string, arg []byte) ([]byte, error)
}

// Process is one connection's function, alive until Close.
type Process struct{}

// Start starts the jail, which begins to import the function; the first Invoke
// reports how that went. ctx bounds the start alone.
func (h *Host) Start(ctx context.Context, o Options) (*Process, error) {
	return nil, sandbox.ErrSetup
}

// Invoke reads input to its end, calls the handler with it, and streams the
// result to output. Calls are served one after the other. When it returns
// ErrTimeout, ErrEnded, an error of output, or ctx's, the process is gone (and
// output may have got the beginning of a result); after every other error the next Invoke works.
func (p *Process) Invoke(ctx context.Context, input io.Reader, output io.Writer) error {
	return ErrEnded
}

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return nil }

// Close ends the process and everything it started.
func (p *Process) Close() error { return nil }

// Check reads app.py in a jail and runs nothing of it. It refuses, with an
// error that wraps intake.ErrInvalid, what does not compile or does not bind
// cape_handler at top level.
func (h *Host) Check(ctx context.Context, source []byte) error { return sandbox.ErrSetup }
