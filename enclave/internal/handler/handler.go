package handler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cape-functions/cape/core/wire"
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
	// ErrResultTooLarge: it is the result. It wraps ErrTooLarge.
	ErrResultTooLarge = fmt.Errorf("%w: the result", ErrTooLarge)
	// ErrEnded: the process ended: it exited, was killed, broke the protocol, or
	// was closed. Errors that wrap it say which.
	ErrEnded = errors.New("function's process ended")
	// ErrPython: the interpreter cannot be used.
	ErrPython = errors.New("the Python interpreter cannot be used")
)

// FunctionError is an exception of the function. All fields are the function's
// own words: bounded, valid UTF-8, never to be logged.
type FunctionError struct {
	Type      string // "ValueError", "app.MyError"
	Message   string
	Traceback string // for the function's owner alone
}

// Error gives type and message, without the traceback.
func (e *FunctionError) Error() string {
	if e.Message == "" {
		return e.Type
	}
	return fmt.Sprintf("%s: %s", e.Type, e.Message)
}

// LogValue keeps a function's words out of logs.
func (e *FunctionError) LogValue() slog.Value { return slog.StringValue("exception in the function") }

// Config says what a Host runs.
type Config struct {
	// Python is the interpreter, CPython 3.9 or newer: a path, or a name to be found in PATH.
	Python string
	// Scratch is a directory that belongs to the Host alone, Trees one below which all functions are unpacked.
	Scratch, Trees string
	// Worker is a folder with the files of package python, compiled for this interpreter, and with its answer, as an
	// image has it; empty: they are written below Scratch, and compiled whenever they are read, and it is asked.
	Worker string
	// AllowDegraded goes on without layers that this machine cannot have.
	AllowDegraded bool
}

// Options are one connection's.
type Options struct {
	Tree string // absolute path of the unpacked function, shared read-only
	Work string // folder below Tree that holds app.py: intake.Layout.Work
	// Limits bound the process and each call; what is 0 has its default.
	Limits wire.LimitsConfig
	// Stdout and Stderr get what the function prints, in pieces, from one goroutine
	// each: at most 4 MiB each in a connection. What comes faster than they take it
	// is dropped. nil: nothing is kept.
	Stdout, Stderr io.Writer
	// RPC answers one request of cape_encrypt: "CapeEncryptRPC.Encrypt" with the
	// plaintext, "CapeEncryptRPC.Decrypt" with the envelope; the answer is the
	// envelope or the plaintext. Its error's text is shown to the function. One call
	// at a time; ctx ends with the process. nil: there is no socket.
	RPC func(ctx context.Context, method string, arg []byte) ([]byte, error)
	// Reserve takes n bytes of memory out of the caller's share, for a large request of cape_encrypt.
	// nil: it is not counted.
	Reserve func(n int64) (release func(), err error)
	// Hold keeps Tree in its place until what it returns is called: spares need it beyond the
	// connection. nil: the function gets no spares.
	Hold func() (release func())
	// Owner is whose the function is, as a value that can be compared: owners have like shares of what spares there are.
	Owner any
}
