package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cape-functions/cape/host/internal/devserver"
)

// newLogger logs to w for people (text) or for programs (json).
func newLogger(w io.Writer, format string, verbose bool) (*slog.Logger, error) {
	level := devserver.LevelNotice
	if verbose {
		level = slog.LevelDebug
	}
	switch format {
	case "text":
		return slog.New(&plainHandler{mu: &sync.Mutex{}, w: w, level: level}), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})), nil
	}
	return nil, fmt.Errorf("--log-format %s: use text or json", format)
}

// plainHandler writes a line for each event: time, severity when it matters,
// message, then the attributes.
type plainHandler struct {
	mu     *sync.Mutex
	w      io.Writer
	level  slog.Level
	attrs  string
	prefix string
}

// Enabled implements slog.Handler.
func (h *plainHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements slog.Handler.
func (h *plainHandler) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	b.WriteString(r.Time.Format("15:04:05.000 "))
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(clean(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, h.prefix, a)
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(b.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (h *plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b bytes.Buffer
	for _, a := range attrs {
		writeAttr(&b, h.prefix, a)
	}
	next := *h
	next.attrs += b.String()
	return &next
}

// WithGroup implements slog.Handler.
func (h *plainHandler) WithGroup(name string) slog.Handler {
	next := *h
	if name != "" {
		next.prefix += name + "."
	}
	return &next
}

func writeAttr(b *bytes.Buffer, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range v.Group() {
			writeAttr(b, prefix, inner)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	text := v.String()
	if text == "" || slices.ContainsFunc([]rune(text), func(r rune) bool { return r <= ' ' || r == '"' || !strconv.IsPrint(r) }) {
		text = strconv.Quote(text)
	}
	fmt.Fprintf(b, "  %s%s=%s", prefix, a.Key, text)
}

// clean keeps what an enclave says to one line, without control characters.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != ' ' && !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
