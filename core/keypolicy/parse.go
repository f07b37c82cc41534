package keypolicy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// maxDepth bounds the nesting of a policy; the template's is 6.
const maxDepth = 8

// Parse returns the parameters of a policy that equals Render of them as parsed JSON, and
// refuses every other. KMS may write a list of one as a string and may reorder the values
// of a list, so both count as equal; nothing else does. Errors match ErrPolicy.
func Parse(policy []byte) (Params, error) {
	if len(policy) > MaxSize {
		return Params{}, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrPolicy, len(policy), MaxSize)
	}
	got, err := decode(policy)
	if err != nil {
		return Params{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	p, err := extract(got)
	if err != nil {
		return Params{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	rendered, err := Render(p)
	if err != nil {
		return Params{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	want, err := decode(rendered)
	if err != nil {
		return Params{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if !reflect.DeepEqual(got, want) {
		return Params{}, fmt.Errorf("%w: it differs from the template", ErrPolicy)
	}
	return p, nil
}

// decode reads one JSON value into maps, slices and strings.
func decode(data []byte) (any, error) {
	if !json.Valid(data) {
		return nil, errors.New("it is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return decodeValue(d, maxDepth)
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("reading a value: %w", err)
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if depth == 0 {
		return nil, errors.New("it is nested too deeply")
	}
	var v any
	if delim == '{' {
		v, err = decodeObject(d, depth)
	} else {
		v, err = decodeArray(d, depth)
	}
	if err != nil {
		return nil, err
	}
	_, err = d.Token() // the closing delimiter
	return v, err
}

// decodeObject refuses a key that stands twice: two readers could each take another one.
func decodeObject(d *json.Decoder, depth int) (any, error) {
	m := map[string]any{}
	for d.More() {
		token, err := d.Token()
		key, ok := token.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("reading a key: %w", err)
		}
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("%q stands twice in one object", key)
		}
		v, err := decodeValue(d, depth-1)
		if err != nil {
			return nil, err
		}
		m[key] = v
		if key == "AWS" || key == "Action" || strings.HasPrefix(key, "kms:") {
			m[key] = normalise(v)
		}
	}
	return m, nil
}

func decodeArray(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := decodeValue(d, depth-1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// normalise makes a sorted list of what may be a string or a list of strings.
func normalise(v any) any {
	if s, ok := v.(string); ok {
		return []any{s}
	}
	list, ok := v.([]any)
	if !ok {
		return v
	}
	for _, item := range list {
		if _, ok := item.(string); !ok {
			return v
		}
	}
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	return list
}

// extract takes the parameters from the two statements that hold them all. What else
// stands in the policy is Parse's to compare.
func extract(doc any) (Params, error) {
	var p Params
	statements, _ := get(doc, "Statement").([]any)
	for _, s := range statements {
		switch get(s, "Sid") {
		case sidUse:
			if role := strs(get(s, "Principal", "AWS")); len(role) == 1 {
				p.Role = role[0]
			}
			var err [3]error
			var pcr16 []nitro.PCR
			p.PCR0, err[0] = pcrs(get(s, "Condition", opEquals, keyPCR0))
			p.PCR8, err[1] = pcrs(get(s, "Condition", opEquals, keyPCR8))
			pcr16, err[2] = pcrs(get(s, "Condition", opEquals, keyPCR16))
			if err := errors.Join(err[:]...); err != nil {
				return Params{}, err
			}
			if len(pcr16) == 1 {
				p.PCR16 = pcr16[0]
			}
		case sidAdmins:
			p.Admins = strs(get(s, "Principal", "AWS"))
		}
	}
	p.Partition, p.AccountID, _ = ParseRole(p.Role)
	return p, nil
}

// get follows keys through objects; nil when there is nothing.
func get(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func strs(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, item := range list {
		s, _ := item.(string)
		out = append(out, s)
	}
	return out
}

func pcrs(v any) ([]nitro.PCR, error) {
	var out []nitro.PCR
	for _, s := range strs(v) {
		value, err := nitro.ParsePCR(s)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	return out, nil
}
