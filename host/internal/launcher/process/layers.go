package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Layer is one defence of the jail in which functions run, and whether this machine has it.
type Layer struct {
	Name string
	On   bool
	Why  string // what is missing, when it is off
}

// maxLayers bounds what a runtime says of its layers.
const maxLayers = 64 << 10

// Layers asks the runtime at path which layers of the jail this machine has. It starts it as Launch would, and nothing is served.
func Layers(ctx context.Context, path, python string) ([]Layer, error) {
	py, err := findInterpreter(ctx, python)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cape-doctor-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, "scratch"), 0o700); err != nil {
		return nil, err
	}
	e := &enclave{dir: dir, log: slog.New(slog.DiscardHandler), more: []string{"--layers"}}
	output, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd, err := e.spawn(path, py.Executable, write)
	write.Close()
	if err != nil {
		return nil, err
	}
	if e.memory != "" {
		defer os.RemoveAll(e.memory)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(output, maxLayers))
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("asking %s for the layers of its jail: %w: %s", path, err, strings.TrimSpace(string(text)))
	}
	var layers []Layer
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&layers); err != nil {
		return nil, fmt.Errorf("asking %s for the layers of its jail: %w", path, err)
	}
	return layers, nil
}
