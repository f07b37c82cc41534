package nsm

import (
	"errors"
	"fmt"
)

var (
	// ErrTransport: the module could not be reached, or the link to it broke.
	ErrTransport = errors.New("security module cannot be reached")
	// ErrAnswer: the module answered something that is not an answer to the request.
	ErrAnswer = errors.New("security module gave a malformed answer")
	// ErrTooLarge: a request is larger than the module takes; it was not sent.
	ErrTooLarge = errors.New("request is too large for the security module")
)

// Code is an error that the module itself reported, by the name it has in
// aws-nitro-enclaves-nsm-api. Codes are compared with errors.Is.
type Code string

// The module's error codes.
const (
	ErrInvalidArgument  Code = "InvalidArgument"
	ErrInvalidIndex     Code = "InvalidIndex"
	ErrInvalidResponse  Code = "InvalidResponse"
	ErrReadOnlyIndex    Code = "ReadOnlyIndex"
	ErrInvalidOperation Code = "InvalidOperation"
	ErrBufferTooSmall   Code = "BufferTooSmall"
	ErrInputTooLarge    Code = "InputTooLarge"
	ErrInternal         Code = "InternalError"
)

// Error implements error.
func (c Code) Error() string { return "security module refused: " + string(c) }

// codeOf returns the Code with that name. A name that is not in the list is no Code: its
// text is the module's, and callers could not test for it.
func codeOf(name string) error {
	switch c := Code(name); c {
	case ErrInvalidArgument, ErrInvalidIndex, ErrInvalidResponse, ErrReadOnlyIndex,
		ErrInvalidOperation, ErrBufferTooSmall, ErrInputTooLarge, ErrInternal:
		return c
	}
	return fmt.Errorf("%w: an error code that is not known", ErrAnswer)
}
