package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// Policy is a parsed key policy. The zero value allows nothing.
type Policy struct{ statements []statement }

type statement struct {
	deny bool
	// never: an Allow with something this package does not understand.
	never      bool
	principals []principal
	actions    []string // patterns in lower case
	notAction  bool
	resources  []string // patterns
	notRes     bool
	conditions []condition
}

// principal is one entry of a Principal element. Of its fields exactly one is
// set; none means nobody of this service's callers (a service or federation).
type principal struct {
	any     bool
	account string
	arn     string
}

// Parse reads a key policy. Errors wrap ErrMalformed.
func Parse(text []byte) (*Policy, error) {
	v, err := decodeStrict(text)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: not an object", ErrMalformed)
	}
	for k, v := range object {
		switch k {
		case "Version":
			if v != "2012-10-17" && v != "2008-10-17" {
				return nil, fmt.Errorf("%w: unknown Version", ErrMalformed)
			}
		case "Id":
			if _, ok := v.(string); !ok {
				return nil, fmt.Errorf("%w: Id must be a string", ErrMalformed)
			}
		case "Statement":
		default:
			return nil, fmt.Errorf("%w: unknown element %q", ErrMalformed, k)
		}
	}
	list, ok := object["Statement"].([]any)
	if !ok {
		list = []any{object["Statement"]}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no statement", ErrMalformed)
	}
	return parseStatements(list)
}

func parseStatements(list []any) (*Policy, error) {
	p := &Policy{}
	sids := map[string]bool{}
	for i, v := range list {
		object, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%w: statement %d is not an object", ErrMalformed, i+1)
		}
		s, err := parseStatement(object, sids)
		if err != nil {
			return nil, fmt.Errorf("statement %d: %w", i+1, err)
		}
		p.statements = append(p.statements, s)
	}
	return p, nil
}

func parseStatement(object map[string]any, sids map[string]bool) (statement, error) {
	var s statement
	for k := range object {
		switch k {
		case "Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition":
		case "NotPrincipal":
			// Whom it leaves out for role sessions is subtle enough to be got wrong.
			return s, fmt.Errorf("%w: NotPrincipal is not supported; use Principal \"*\" with a condition on aws:PrincipalArn", ErrMalformed)
		default:
			return s, fmt.Errorf("%w: unknown element %q", ErrMalformed, k)
		}
	}
	if sid, given := object["Sid"]; given {
		text, ok := sid.(string)
		if !ok || (text != "" && sids[text]) {
			return s, fmt.Errorf("%w: Sid must be a string, and each only once", ErrMalformed)
		}
		sids[text] = true
	}
	switch object["Effect"] {
	case "Allow":
	case "Deny":
		s.deny = true
	default:
		return s, fmt.Errorf("%w: Effect must be Allow or Deny", ErrMalformed)
	}
	var err error
	if s.principals, err = parsePrincipals(object["Principal"]); err != nil {
		return s, err
	}
	if err := s.parseTargets(object); err != nil {
		return s, err
	}
	return s, s.parseConditions(object)
}

// parseTargets reads Action and Resource or their negations.
func (s *statement) parseTargets(object map[string]any) error {
	pick := func(name string) (patterns []string, negated bool, err error) {
		yes, hasYes := object[name]
		no, hasNo := object["Not"+name]
		if hasYes == hasNo {
			return nil, false, fmt.Errorf("%w: a statement needs either %s or Not%s", ErrMalformed, name, name)
		}
		if hasNo {
			yes = no
		}
		patterns, err = stringList(yes, name)
		return patterns, hasNo, err
	}
	var err error
	if s.actions, s.notAction, err = pick("Action"); err != nil {
		return err
	}
	for i, a := range s.actions {
		if a != "*" && !strings.Contains(a, ":") {
			return fmt.Errorf("%w: %q is not an action: it has the form \"kms:Decrypt\"", ErrMalformed, a)
		}
		s.actions[i] = strings.ToLower(a)
	}
	if s.resources, s.notRes, err = pick("Resource"); err != nil {
		return err
	}
	for _, r := range s.resources {
		if r != "*" && !strings.HasPrefix(r, "arn:") {
			return fmt.Errorf("%w: %q is neither an ARN nor \"*\"", ErrMalformed, r)
		}
		if strings.Contains(r, "${") {
			if err := s.unclear("policy variables in Resource"); err != nil {
				return err
			}
		}
	}
	return nil
}

// unclear notes something that this package cannot decide: it shuts an Allow
// and makes a Deny an error.
func (s *statement) unclear(what string) error {
	if s.deny {
		return fmt.Errorf("%w: %s cannot be enforced here, so this Deny would protect nothing", ErrMalformed, what)
	}
	s.never = true
	return nil
}

func parsePrincipals(v any) ([]principal, error) {
	if v == "*" {
		return []principal{{any: true}}, nil
	}
	object, ok := v.(map[string]any)
	if !ok || len(object) == 0 {
		return nil, fmt.Errorf("%w: Principal must be \"*\" or an object such as {\"AWS\": ARN}", ErrMalformed)
	}
	var out []principal
	for kind, v := range object {
		values, err := stringList(v, "Principal")
		if err != nil {
			return nil, err
		}
		switch kind {
		case "AWS":
			for _, value := range values {
				p, err := parsePrincipal(value)
				if err != nil {
					return nil, err
				}
				out = append(out, p)
			}
		case "Service", "Federated", "CanonicalUser":
			// Nobody who calls this service is one.
			out = append(out, principal{})
		default:
			return nil, fmt.Errorf("%w: unknown kind of principal %q", ErrMalformed, kind)
		}
	}
	return out, nil
}

var (
	accountPattern   = regexp.MustCompile(`^[0-9]{12}$`)
	principalPattern = regexp.MustCompile(`^arn:aws[a-z-]*:(iam::[0-9]{12}:(root|(role|user)/[\x21-\x29\x2b-\x3e\x40-\x7e]+)|sts::[0-9]{12}:(assumed-role|federated-user)/[\x21-\x29\x2b-\x3e\x40-\x7e]+)$`)
)

func parsePrincipal(value string) (principal, error) {
	switch {
	case value == "*":
		return principal{any: true}, nil
	case accountPattern.MatchString(value):
		return principal{account: value}, nil
	case !principalPattern.MatchString(value):
		return principal{}, fmt.Errorf("%w: %q is not a principal: it must be the ARN of an account, role, user or session, without wildcards", ErrMalformed, value)
	}
	parts := strings.SplitN(value, ":", 6)
	if parts[5] == "root" {
		return principal{account: parts[4]}, nil
	}
	return principal{arn: value}, nil
}
