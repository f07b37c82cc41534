package localkms

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// addTags checks tags and puts them on a key that nobody else sees yet.
func addTags(k *key, tags []tag) error {
	if k.Tags == nil {
		k.Tags = map[string]string{}
	}
	for _, t := range tags {
		if len(t.TagKey) < 1 || len(t.TagKey) > 128 || len(t.TagValue) > 256 || strings.HasPrefix(t.TagKey, "aws:") ||
			!utf8.ValidString(t.TagKey+t.TagValue) {
			return fail(codeTag, "a tag has a key of 1 to 128 and a value of at most 256 bytes, and the key does not begin with \"aws:\"")
		}
		for have := range k.Tags {
			// Conditions on tags do not tell case apart.
			if have != t.TagKey && strings.EqualFold(have, t.TagKey) {
				return fail(codeTag, "tag keys must differ by more than case: %q", t.TagKey)
			}
		}
		k.Tags[t.TagKey] = t.TagValue
	}
	if len(k.Tags) > maxTags {
		return fail(codeTag, "a key has at most %d tags", maxTags)
	}
	return nil
}

type tagInput struct {
	KeyId string
	Tags  []tag
}

func tagResource(c *call, in *tagInput) (*nothing, error) {
	extra := facts{}
	for _, t := range in.Tags {
		extra.set("aws:requesttag/"+strings.ToLower(t.TagKey), t.TagValue)
		extra["aws:tagkeys"] = append(extra["aws:tagkeys"], t.TagKey)
	}
	return c.changeTags(in.KeyId, extra, func(k *key) error { return addTags(k, in.Tags) })
}

type untagInput struct {
	KeyId   string
	TagKeys []string
}

func untagResource(c *call, in *untagInput) (*nothing, error) {
	extra := facts{}
	extra.set("aws:tagkeys", in.TagKeys...)
	return c.changeTags(in.KeyId, extra, func(k *key) error {
		for _, name := range in.TagKeys {
			delete(k.Tags, name)
		}
		return nil
	})
}

func (c *call) changeTags(ref string, extra facts, change func(*key) error) (*nothing, error) {
	k, err := c.manage(ref, extra)
	if err != nil {
		return nil, err
	}
	return &nothing{}, c.s.update(k.ID, func(k *key) error {
		if k.State == stateDeleting {
			return c.badState(k)
		}
		return change(k)
	})
}

type listTagsInput struct {
	KeyId  string
	Limit  *int
	Marker string
}

type listTagsOutput struct {
	Tags []tag
	page
}

func listResourceTags(c *call, in *listTagsInput) (*listTagsOutput, error) {
	k, err := c.manage(in.KeyId, nil)
	if err != nil {
		return nil, err
	}
	names, p, err := paginate(slices.Sorted(maps.Keys(k.Tags)), in.Limit, 50, in.Marker)
	if err != nil {
		return nil, err
	}
	out := &listTagsOutput{Tags: []tag{}, page: p}
	for _, n := range names {
		out.Tags = append(out.Tags, tag{n, k.Tags[n]})
	}
	return out, nil
}
