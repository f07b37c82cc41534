package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cape-functions/cape/client/internal/lockfile"
	"github.com/cape-functions/cape/client/trust"
)

// Sentinels.
var (
	// ErrFile: a settings file cannot be read.
	ErrFile = errors.New("settings file cannot be used")
	// ErrValue: a setting has a value that it cannot have.
	ErrValue = errors.New("setting has an unusable value")
	// ErrNoServer: nobody said which server is meant.
	ErrNoServer = errors.New("no server is set")
	// ErrKey: there is no such setting.
	ErrKey = errors.New("no such setting")
)

// maxFile bounds a settings file.
const maxFile = 1 << 20

// Source says where a value came from.
type Source string

// The sources, from the one that counts most.
const (
	Flag        Source = "flag"
	Environment Source = "environment"
	Presets     Source = "presets"
	Development Source = "caped dev on this machine"
	Default     Source = "default"
)

// Input is what Load looks at.
type Input struct {
	// Flags are the settings that flags gave.
	Flags map[string]string
	// Presets is the file that a flag named, empty if none did.
	Presets string
	// Create lets that file be absent: it is about to be written.
	Create bool
	// Getenv returns an environment variable.
	Getenv func(string) (string, bool)
	// Home is the user's home directory.
	Home string
}

// Value is one setting.
type Value struct {
	Text   string
	Source Source
}

// Settings are the answers.
type Settings struct {
	// PresetsPath is the presets file, which need not exist.
	PresetsPath string

	values map[string]Value
	layers []layer
}

type layer struct {
	source Source
	values map[string]string
}

// Load reads everything. A presets file that is not there is an empty one, unless a flag
// named it; one that cannot be read is an error.
func Load(in Input) (*Settings, error) {
	env := map[string]string{}
	for _, key := range Keys() {
		for _, name := range key.environment() {
			if v, ok := in.Getenv(name); ok && v != "" {
				env[key.Name] = v
				break
			}
		}
	}
	path := in.Presets
	if path == "" {
		path = env[PresetsFile]
	}
	if path == "" {
		path = defaultPresets(in.Home)
	}
	if in.Presets != "" && !in.Create && !exists(path) {
		return nil, fmt.Errorf("%w: there is no %s", ErrFile, path)
	}
	presets, err := readValues(path)
	if err != nil {
		return nil, err
	}
	delete(presets, PresetsFile)
	s := &Settings{PresetsPath: path, layers: []layer{{Flag, in.Flags}, {Environment, env}, {Presets, presets}}}
	s.resolve()
	if s.values[EnclaveHost].Text == "" {
		if err := s.addDevelopment(in); err != nil {
			return nil, err
		}
	}
	s.layers = append(s.layers, layer{Default, defaults(in.Home)})
	s.resolve()
	if _, ok := s.values[AuthHost]; !ok {
		if host, ok := s.values[EnclaveHost]; ok {
			s.values[AuthHost] = Value{host.Text, Default}
		}
	}
	return s, nil
}

func (s *Settings) addDevelopment(in Input) error {
	dev := devFile(in.Getenv, in.Home)
	if !exists(dev) {
		return nil
	}
	values, err := readValues(dev)
	if err != nil {
		return err
	}
	s.layers = append(s.layers, layer{Development, values})
	return nil
}

func (s *Settings) resolve() {
	s.values = map[string]Value{}
	for _, l := range s.layers {
		for name, text := range l.values {
			if _, taken := s.values[name]; !taken && text != "" && Known(name) {
				if name == EnclaveHost || name == AuthHost {
					text = strings.TrimRight(text, "/")
				}
				s.values[name] = Value{text, l.source}
			}
		}
	}
}

// Get returns a setting; its Text is empty if it is not set.
func (s *Settings) Get(name string) Value { return s.values[name] }

// Server returns the server's URL. Errors match ErrNoServer or ErrValue.
func (s *Settings) Server() (string, error) {
	host := s.values[EnclaveHost]
	if host.Text == "" {
		return "", ErrNoServer
	}
	if _, err := trust.Origin(host.Text); err != nil {
		return "", fmt.Errorf("%w: %s from %s is %.200q: %w", ErrValue, EnclaveHost, host.Source, host.Text, err)
	}
	return host.Text, nil
}

// RootCert returns the file of the attestation root that was named for the server. A
// root holds for the server that is set in the same place, and for no other; a flag's
// holds for the server of this call.
func (s *Settings) RootCert() string { return s.RootCertFor(s.values[EnclaveHost].Text) }

// RootCertFor is RootCert for a server other than the one that is set, such as that of a
// receipt: the root that a flag names, or that stands beside this server.
func (s *Settings) RootCertFor(server string) string {
	server, err := trust.Origin(server)
	for _, l := range s.layers {
		file := l.values[RootCert]
		if file == "" {
			continue
		}
		if l.source == Flag {
			return file
		}
		if origin, not := trust.Origin(l.values[EnclaveHost]); err == nil && not == nil && origin == server {
			return file
		}
	}
	return ""
}

// Path returns a file in the configuration directory; name is a setting that holds its
// name.
func (s *Settings) Path(name string) string { return s.InDir(s.values[name].Text) }

// InDir returns the path of a file in the configuration directory.
func (s *Settings) InDir(file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(s.values[ConfigDir].Text, file)
}

// Hosts returns the hosts that redirects may lead to.
func (s *Settings) Hosts() []string {
	return strings.FieldsFunc(s.values[RedirectHosts].Text, func(r rune) bool { return r == ',' || r == ' ' })
}

// Insecure tells whether TLS certificates are left unchecked. Errors match ErrValue.
func (s *Settings) Insecure() (bool, error) {
	v := s.values[DisableTLS]
	if v.Text == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v.Text)
	if err != nil {
		return false, fmt.Errorf("%w: %s from %s is neither true nor false", ErrValue, DisableTLS, v.Source)
	}
	return b, nil
}

// Sealed tells whether the sealed protocol is spoken: always, unless v1 was asked for.
// Errors match ErrValue.
func (s *Settings) Sealed() (bool, error) {
	switch v := s.values[Protocol]; v.Text {
	case "v2":
		return true, nil
	case "v1":
		return false, nil
	default:
		return false, fmt.Errorf("%w: %s from %s is neither v2 nor v1", ErrValue, Protocol, v.Source)
	}
}

// readValues reads a file of settings: one JSON object. Values of other kinds than text
// are taken as written; settings that nobody knows are kept and not looked at.
func readValues(path string) (map[string]string, error) {
	raw, err := readObject(path)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(raw))
	for name, v := range raw {
		switch v := v.(type) {
		case string:
			out[name] = v
		case bool, json.Number:
			out[name] = fmt.Sprint(v)
		case nil:
		default:
			if Known(name) {
				return nil, fmt.Errorf("%w: %s: %s is not text", ErrFile, path, name)
			}
		}
	}
	return out, nil
}

func readObject(path string) (map[string]any, error) {
	data, err := lockfile.Read(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if data == nil {
		return map[string]any{}, nil
	}
	var raw map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&raw); err != nil || d.More() {
		return nil, fmt.Errorf("%w: %s is not one JSON object", ErrFile, path)
	}
	if raw == nil {
		raw = map[string]any{}
	}
	return raw, nil
}

// check tells whether a setting may have the value. Errors match ErrValue.
func check(name, value string) error {
	var why error
	switch name {
	case EnclaveHost, AuthHost:
		_, why = trust.Origin(strings.TrimRight(value, "/"))
	case Protocol:
		if value != "v2" && value != "v1" {
			why = errors.New("it is neither v2 nor v1")
		}
	case DisableTLS:
		if _, err := strconv.ParseBool(value); err != nil {
			why = errors.New("it is neither true nor false")
		}
	}
	if why != nil {
		return fmt.Errorf("%w: %s, %.200q: %w", ErrValue, name, value, why)
	}
	return nil
}

// Set writes one setting into the presets file; an empty value removes it. Errors match
// ErrKey, ErrValue or ErrFile.
func Set(ctx context.Context, path, name, value string) error {
	if !Known(name) || name == PresetsFile {
		return fmt.Errorf("%w: %.100q", ErrKey, name)
	}
	if value != "" {
		if err := check(name, value); err != nil {
			return err
		}
	}
	release, err := lockfile.Lock(ctx, path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	defer release()
	raw, err := readObject(path)
	if err != nil {
		return err
	}
	raw[name] = value
	if value == "" {
		delete(raw, name)
	}
	data, err := json.MarshalIndent(raw, "", "  ")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	if err := lockfile.Write(path, append(data, '\n')); err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	return nil
}
