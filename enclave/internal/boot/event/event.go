// Package event is the closed list of what the enclave may say to its host's log.
//
// It trusts nobody with content: the host reads every line. It refuses, in Logger's handler,
// every message, attribute and value that is not listed here, whoever passes it, so that a
// careless log line cannot carry a name, an input or an error's text out. All packages of the
// enclave log through it.
package event

import (
	"context"
	"io"
	"log/slog"
)

// Messages.
const (
	Starting       = "runtime starting"
	Measured       = "trust measured and locked"
	LayerMissing   = "a layer of the jail cannot be had"
	Inspected      = "key inspected"
	InspectFailed  = "key inspection failed"
	JailsReady     = "jails ready"
	Serving        = "serving"
	Suspended      = "serving stopped"
	BirthDelivered = "birth document delivered"
	SessionEnded   = "session ended"
	Refused        = "request refused"
	Panicked       = "internal fault"
	ClockFailed    = "security module's clock cannot be read"
	ClocksDiffer   = "hypervisor's clock is not the security module's"
	Stopping       = "runtime stopping"
	Stopped        = "runtime stopped"
	MachineReady   = "machine ready"
	MachineEnding  = "machine ending"
	TLSServing     = "serving by TLS"
	TLSFailed      = "the host made no certificate"
)

// Attributes. Values are numbers, durations, or one of the texts below.
const (
	Route   = "route"
	Code    = "code"
	Layer   = "layer"
	Stage   = "stage"
	Millis  = "ms"
	Count   = "count"
	Attempt = "attempt"
)

func messageKnown(m string) bool {
	switch m {
	case Starting, Measured, LayerMissing, Inspected, InspectFailed, JailsReady, Serving, Suspended, BirthDelivered,
		SessionEnded, Refused, Panicked, ClockFailed, ClocksDiffer, Stopping, Stopped, MachineReady, MachineEnding, TLSServing, TLSFailed:
		return true
	}
	return false
}

func keyKnown(k string) bool {
	switch k {
	case Route, Code, Layer, Stage, Millis, Count, Attempt:
		return true
	}
	return false
}

// maxWord bounds a text value: all of ours are words of the program itself.
const maxWord = 32

func wordKnown(s string) bool {
	if len(s) > maxWord {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// New returns a logger that writes JSON lines to w and lets nothing else pass.
func New(w io.Writer) *slog.Logger {
	return slog.New(&closed{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo})})
}

type closed struct{ next slog.Handler }

func (c *closed) Enabled(ctx context.Context, l slog.Level) bool { return c.next.Enabled(ctx, l) }

func (c *closed) Handle(ctx context.Context, r slog.Record) error {
	if !messageKnown(r.Message) {
		return nil
	}
	out := slog.NewRecord(r.Time, r.Level, r.Message, 0)
	r.Attrs(func(a slog.Attr) bool {
		if allowed(a) {
			out.AddAttrs(a)
		}
		return true
	})
	return c.next.Handle(ctx, out)
}

// allowed looks at the value's kind before it is formatted: a LogValuer or an error never is.
func allowed(a slog.Attr) bool {
	if !keyKnown(a.Key) {
		return false
	}
	switch a.Value.Kind() {
	case slog.KindInt64, slog.KindUint64, slog.KindBool, slog.KindDuration:
		return true
	case slog.KindString:
		return wordKnown(a.Value.String())
	}
	return false
}

// WithAttrs and WithGroup keep nothing: attributes are given with each event.
func (c *closed) WithAttrs([]slog.Attr) slog.Handler { return c }

// WithGroup: see WithAttrs.
func (c *closed) WithGroup(string) slog.Handler { return c }
