package policy

import (
	"slices"
	"strings"
)

// Evaluate decides a request: a Deny that applies wins over every Allow.
func (p *Policy) Evaluate(r Request) Decision {
	decision := NotAllowed
	for _, s := range p.statements {
		if !s.applies(r) {
			continue
		}
		if s.deny {
			return Denied
		}
		decision = Allowed
	}
	return decision
}

func (s statement) applies(r Request) bool {
	if s.never || !slices.ContainsFunc(s.principals, func(p principal) bool { return p.is(r.Principal) }) {
		return false
	}
	action := strings.ToLower(r.Action)
	if slices.ContainsFunc(s.actions, func(a string) bool { return match(a, action) }) == s.notAction {
		return false
	}
	if slices.ContainsFunc(s.resources, func(p string) bool { return match(p, r.Resource) }) == s.notRes {
		return false
	}
	for _, c := range s.conditions {
		if !c.holds(r.Context) {
			return false
		}
	}
	return true
}

// is tells whether the entry names the caller. An account stands for all its
// principals: AWS would ask their identity policies next, and here those
// allow everything.
func (p principal) is(who Principal) bool {
	switch {
	case p.any:
		return true
	case p.account != "":
		return p.account == who.Account
	case p.arn != "":
		return p.arn == who.ARN || p.arn == who.Session
	}
	return false
}
