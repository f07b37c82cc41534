package localkms

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

var aliasPattern = regexp.MustCompile(`^alias/[a-zA-Z0-9/_-]{1,250}$`)

func checkAlias(name string) error {
	if !aliasPattern.MatchString(name) || strings.HasPrefix(name, "alias/aws/") {
		return fail(codeInvalidAlias, "an alias is \"alias/\" and 1 to 250 letters, digits, \"/\", \"_\" or \"-\", and does not begin with \"alias/aws/\"")
	}
	return nil
}

type aliasInput struct{ AliasName, TargetKeyId string }

func createAlias(c *call, in *aliasInput) (*nothing, error) {
	if err := c.authorizeAccount(); err != nil {
		return nil, err
	}
	if err := checkAlias(in.AliasName); err != nil {
		return nil, err
	}
	k, err := c.aliasTarget(in)
	if err != nil {
		return nil, err
	}
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.aliases[in.AliasName]; exists {
		return nil, fail(codeAlreadyExists, "An alias with the name %s%s already exists", s.arnPrefix(), in.AliasName)
	}
	if len(s.aliases) >= maxAliases {
		return nil, fail(codeLimitExceeded, "there are %d aliases, and no more can be made", maxAliases)
	}
	return &nothing{}, s.pointAlias(c, in.AliasName, k.ID)
}

func updateAlias(c *call, in *aliasInput) (*nothing, error) {
	if err := c.authorizeAccount(); err != nil {
		return nil, err
	}
	if err := checkAlias(in.AliasName); err != nil {
		return nil, err
	}
	old, _, err := c.s.lookup(in.AliasName, true)
	if err != nil {
		return nil, err
	}
	if err := c.authorize(old, c.operation, nil); err != nil {
		return nil, err
	}
	k, err := c.aliasTarget(in)
	if err != nil {
		return nil, err
	}
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aliases[in.AliasName].Target != old.ID {
		return nil, s.notFound(in.AliasName)
	}
	return &nothing{}, s.pointAlias(c, in.AliasName, k.ID)
}

// aliasTarget authorizes the use of the key that an alias shall name.
func (c *call) aliasTarget(in *aliasInput) (*key, error) {
	extra := facts{}
	extra.set("kms:requestalias", in.AliasName)
	return c.manage(in.TargetKeyId, extra)
}

// pointAlias stores an alias. The caller holds s.mu.
func (s *Server) pointAlias(c *call, name, id string) error {
	k := s.keys[id]
	if k == nil {
		return s.notFound(id)
	}
	if k.State == stateDeleting {
		return c.badState(k)
	}
	aliases := maps.Clone(s.aliases)
	a, exists := aliases[name]
	if !exists {
		a.Created = c.now.UTC()
	}
	a.Target, a.Updated = id, c.now.UTC()
	aliases[name] = a
	return s.saveAliases(aliases)
}

type deleteAliasInput struct{ AliasName string }

func deleteAlias(c *call, in *deleteAliasInput) (*nothing, error) {
	if err := c.authorizeAccount(); err != nil {
		return nil, err
	}
	if err := checkAlias(in.AliasName); err != nil {
		return nil, err
	}
	k, _, err := c.s.lookup(in.AliasName, true)
	if err != nil {
		return nil, err
	}
	if err := c.authorize(k, c.operation, nil); err != nil {
		return nil, err
	}
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aliases[in.AliasName].Target != k.ID {
		return nil, s.notFound(in.AliasName)
	}
	aliases := maps.Clone(s.aliases)
	delete(aliases, in.AliasName)
	return &nothing{}, s.saveAliases(aliases)
}

type listAliasesInput struct {
	KeyId  string
	Limit  *int
	Marker string
}

type aliasEntry struct {
	AliasName, AliasArn, TargetKeyId string
	CreationDate, LastUpdatedDate    epoch
}

type listAliasesOutput struct {
	Aliases []aliasEntry
	page
}

func listAliases(c *call, in *listAliasesInput) (*listAliasesOutput, error) {
	if err := c.authorizeAccount(); err != nil {
		return nil, err
	}
	target := ""
	if in.KeyId != "" {
		k, _, err := c.s.lookup(in.KeyId, false)
		if err != nil {
			return nil, err
		}
		target = k.ID
	}
	c.s.mu.RLock()
	all := maps.Clone(c.s.aliases)
	c.s.mu.RUnlock()
	maps.DeleteFunc(all, func(_ string, a alias) bool { return target != "" && a.Target != target })
	names, p, err := paginate(slices.Sorted(maps.Keys(all)), in.Limit, 100, in.Marker)
	if err != nil {
		return nil, err
	}
	out := &listAliasesOutput{Aliases: []aliasEntry{}, page: p}
	for _, n := range names {
		a := all[n]
		out.Aliases = append(out.Aliases, aliasEntry{n, c.s.arnPrefix() + n, a.Target, epoch(a.Created), epoch(a.Updated)})
	}
	return out, nil
}
