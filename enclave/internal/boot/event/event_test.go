package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/enclave/internal/boot/event"
)

type talkative struct{}

func (talkative) LogValue() slog.Value { return slog.StringValue("secret") }

func TestOnlyListedEventsPass(t *testing.T) {
	tests := []struct {
		name string
		log  func(*slog.Logger)
		want map[string]any // nil: no line
	}{
		{"event", func(l *slog.Logger) { l.Info(event.Serving) }, map[string]any{"msg": event.Serving}},
		{"number", func(l *slog.Logger) { l.Info(event.SessionEnded, event.Route, "run", event.Count, 3) },
			map[string]any{"msg": event.SessionEnded, "route": "run", "count": 3.0}},
		{"unknown message", func(l *slog.Logger) { l.Error("input was secret") }, nil},
		{"unknown key", func(l *slog.Logger) { l.Info(event.Serving, "user", "bob") }, map[string]any{"msg": event.Serving}},
		{"text that is no word", func(l *slog.Logger) { l.Info(event.Refused, event.Code, "token eyJ0") }, map[string]any{"msg": event.Refused}},
		{"long text", func(l *slog.Logger) { l.Info(event.Refused, event.Code, string(bytes.Repeat([]byte("a"), 33))) },
			map[string]any{"msg": event.Refused}},
		{"error", func(l *slog.Logger) { l.Info(event.Refused, event.Code, errors.New("secret")) }, map[string]any{"msg": event.Refused}},
		{"valuer", func(l *slog.Logger) { l.Info(event.Refused, event.Code, talkative{}) }, map[string]any{"msg": event.Refused}},
		{"with", func(l *slog.Logger) { l.With("user", "bob").WithGroup("g").Info(event.Serving) }, map[string]any{"msg": event.Serving}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			tt.log(event.New(&out))
			var got map[string]any
			if out.Len() > 0 {
				if err := json.Unmarshal(out.Bytes(), &got); err != nil {
					t.Fatal(err)
				}
				delete(got, "time")
				delete(got, "level")
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("line (-want +got):\n%s", d)
			}
		})
	}
}
