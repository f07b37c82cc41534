// Package console passes what an enclave writes on its console to the host's log.
// It believes nothing of it: lines have a limit, and content is data.
package console

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
)

// maxLine bounds a line, in bytes.
const maxLine = 16 << 10

// afterwards is what the first process of a machine says when the runtime has said all.
var afterwards = []string{"machine ending: runtime", "machine ending: done"}

// Copy reads r to its end, line by line. Lines that are JSON as the runtime
// writes it keep their level; others are logged at the level plain. It returns
// what the last telling line says, for whoever has to tell why an enclave ended.
func Copy(log *slog.Logger, r io.Reader, plain slog.Level) (last string) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), maxLine)
	for lines.Scan() {
		if said := line(log, lines.Bytes(), plain); !slices.Contains(afterwards, said) {
			last = said
		}
	}
	if lines.Err() != nil { // a line too long: keep reading so that the enclave never blocks
		if _, err := io.Copy(io.Discard, r); err != nil {
			log.Debug("enclave log ended", "error", err)
		}
	}
	return last
}

// line logs a line, and returns what it says.
func line(log *slog.Logger, text []byte, plain slog.Level) string {
	var record map[string]any
	if json.Unmarshal(text, &record) != nil {
		log.Log(context.Background(), plain, "enclave", "line", string(text))
		return string(text)
	}
	message, _ := record["msg"].(string)
	level := slog.LevelInfo
	if name, ok := record["level"].(string); ok && level.UnmarshalText([]byte(name)) != nil {
		level = slog.LevelInfo
	}
	var attrs []any
	for k, v := range record {
		if k != "msg" && k != "level" && k != "time" {
			attrs = append(attrs, slog.Any(k, v))
		}
	}
	log.Log(context.Background(), level, "enclave: "+message, attrs...)
	for _, reason := range []string{"stage", "error"} {
		if text, ok := record[reason].(string); ok {
			message += ": " + text
		}
	}
	return message
}
