package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A set qualifier says how several values of one key count.
type qualifier int

const (
	single qualifier = iota
	forAll
	forAny
)

type condition struct {
	set      qualifier
	ifExists bool
	base     string // "StringEquals", "Null", …, always the positive form
	negated  bool
	key      string // lower case
	values   []string
}

// parseOperator takes "ForAllValues:StringNotLikeIfExists" apart. The second
// result is false for operators that are not known.
func parseOperator(name string) (condition, bool) {
	var c condition
	rest := name
	if after, ok := strings.CutPrefix(rest, "ForAllValues:"); ok {
		c.set, rest = forAll, after
	} else if after, ok := strings.CutPrefix(rest, "ForAnyValue:"); ok {
		c.set, rest = forAny, after
	}
	rest, c.ifExists = strings.CutSuffix(rest, "IfExists")
	switch rest {
	case "StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnEquals", "ArnLike", "Bool":
		c.base = rest
	case "StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike", "ArnNotEquals", "ArnNotLike":
		c.base, c.negated = strings.Replace(rest, "Not", "", 1), true
	case "Null":
		c.base = rest
		return c, c.set == single && !c.ifExists
	default:
		return c, false
	}
	return c, true
}

func (s *statement) parseConditions(object map[string]any) error {
	v, given := object["Condition"]
	if !given {
		return nil
	}
	block, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%w: Condition must be an object", ErrMalformed)
	}
	for name, v := range block {
		keys, ok := v.(map[string]any)
		if !ok || len(keys) == 0 {
			return fmt.Errorf("%w: condition %s must be an object of keys and values", ErrMalformed, name)
		}
		op, known := parseOperator(name)
		if !known {
			if err := s.unclear("the condition operator " + name); err != nil {
				return err
			}
			continue
		}
		seen := map[string]bool{}
		for key, v := range keys {
			lower := strings.ToLower(key)
			if seen[lower] {
				return fmt.Errorf("%w: condition key %s stands twice under %s", ErrMalformed, key, name)
			}
			seen[lower] = true
			if err := s.parseCondition(op, key, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *statement) parseCondition(c condition, key string, v any) error {
	var err error
	if c.values, err = conditionValues(v, key); err != nil {
		return err
	}
	c.key = strings.ToLower(key)
	kind := kindOf(c.key)
	switch {
	case kind == unknownKey:
		err = s.unclear("the condition key " + key)
	case kind == manyValues && c.set == single && c.base != "Null":
		err = s.unclear("a condition on " + key + " without ForAllValues or ForAnyValue")
	case slices.ContainsFunc(c.values, func(v string) bool { return strings.Contains(v, "${") }):
		err = s.unclear("a policy variable in a condition")
	case c.base == "Bool" || c.base == "Null":
		for i, v := range c.values {
			if c.values[i] = strings.ToLower(v); c.values[i] != "true" && c.values[i] != "false" {
				return fmt.Errorf("%w: %s of %s needs true or false", ErrMalformed, c.base, key)
			}
		}
	case c.base == "ArnEquals" || c.base == "ArnLike":
		for _, v := range c.values {
			if v != "*" && strings.Count(v, ":") < 5 {
				return fmt.Errorf("%w: %q is not an ARN", ErrMalformed, v)
			}
		}
	}
	s.conditions = append(s.conditions, c)
	return err
}

// conditionValues reads one value or a list; numbers and truth values count as
// their text, as in IAM.
func conditionValues(v any, key string) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: condition key %s has no value", ErrMalformed, key)
	}
	out := make([]string, len(list))
	for i, e := range list {
		switch e := e.(type) {
		case string:
			out[i] = e
		case bool:
			out[i] = fmt.Sprint(e)
		case json.Number:
			out[i] = e.String()
		default:
			return nil, fmt.Errorf("%w: a value of condition key %s is neither text, number nor truth value", ErrMalformed, key)
		}
	}
	return out, nil
}

// holds evaluates the condition against the request's values.
func (c condition) holds(context map[string][]string) bool {
	have, present := context[c.key]
	present = present && len(have) > 0
	if c.base == "Null" {
		return slices.Contains(c.values, fmt.Sprint(!present))
	}
	if !present {
		switch {
		case c.ifExists, c.set == forAll:
			return true
		case c.set == forAny:
			return false
		}
		return c.negated
	}
	one := func(value string) bool {
		match := slices.ContainsFunc(c.values, func(want string) bool { return compare(c.base, want, value) })
		return match != c.negated
	}
	if c.set == forAny {
		return slices.ContainsFunc(have, one)
	}
	return !slices.ContainsFunc(have, func(v string) bool { return !one(v) })
}

func compare(base, want, have string) bool {
	switch base {
	case "StringEquals":
		return want == have
	case "StringEqualsIgnoreCase", "Bool":
		return strings.EqualFold(want, have)
	case "StringLike":
		return match(want, have)
	case "ArnEquals", "ArnLike":
		return matchARN(want, have)
	}
	return false
}

// matchARN compares the six parts of two ARNs each by itself, so that a
// wildcard never reaches over a colon, except in the last.
func matchARN(pattern, value string) bool {
	if pattern == "*" {
		return strings.HasPrefix(value, "arn:")
	}
	p, v := strings.SplitN(pattern, ":", 6), strings.SplitN(value, ":", 6)
	if len(p) != 6 || len(v) != 6 {
		return false
	}
	for i := range p {
		if !match(p[i], v[i]) {
			return false
		}
	}
	return true
}

// match compares with * (any run) and ? (any one character), without
// backtracking further than the last star.
func match(pattern, value string) bool {
	p, v := []rune(pattern), []rune(value)
	i, j, star, mark := 0, 0, -1, 0
	for j < len(v) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == v[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
