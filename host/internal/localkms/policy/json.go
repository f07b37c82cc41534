package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxDepth bounds nesting: policies need 5 levels.
const maxDepth = 8

// decodeStrict reads one JSON value into map[string]any, []any, string, bool,
// json.Number or nil. Duplicate keys are refused: the standard decoder would
// keep the last one, and another reader the first.
func decodeStrict(text []byte) (any, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrMalformed, len(text), MaxSize)
	}
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrMalformed)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: text after the JSON value", ErrMalformed)
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("%w: not JSON", ErrMalformed)
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("%w: nested too deeply", ErrMalformed)
	}
	if delim == '{' {
		return decodeObject(d, depth)
	}
	list := []any{}
	for d.More() {
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("%w: not JSON", ErrMalformed)
	}
	return list, nil
}

func decodeObject(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: not JSON", ErrMalformed)
		}
		key, ok := k.(string)
		if !ok {
			return nil, fmt.Errorf("%w: not JSON", ErrMalformed)
		}
		if _, twice := object[key]; twice {
			return nil, fmt.Errorf("%w: %q stands twice in one object", ErrMalformed, key)
		}
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		object[key] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("%w: not JSON", ErrMalformed)
	}
	return object, nil
}

// stringList reads a string or a non-empty list of strings.
func stringList(v any, what string) ([]string, error) {
	if s, ok := v.(string); ok {
		return []string{s}, nil
	}
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil, fmt.Errorf("%w: %s must be a string or a list of strings", ErrMalformed, what)
	}
	out := make([]string, len(list))
	for i, e := range list {
		if out[i], ok = e.(string); !ok {
			return nil, fmt.Errorf("%w: %s must be a string or a list of strings", ErrMalformed, what)
		}
	}
	return out, nil
}
