package keyring_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/keyring"
)

func mustRender(p keypolicy.Params) string {
	b, err := keypolicy.Render(p)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func list(pcrs ...nitro.PCR) [][]byte {
	var out [][]byte
	for _, p := range pcrs {
		out = append(out, p[:])
	}
	return out
}

func (r *rig) forCreate() keyring.Config {
	cfg := r.cfg
	cfg.KeyARN, cfg.Region = "", region
	return cfg
}

func TestCreate(t *testing.T) {
	r := newRig(t)
	admin := "arn:aws:iam::111122223333:role/admin"
	next := nitro.Extend(nitro.PCR{}, []byte("next epoch"))
	birth, err := keyring.Create(t.Context(), r.forCreate(), wire.KEKRequest{
		Admins: []string{admin}, PCR0: list(attestkit.PCR(0)), PCR8: list(next, attestkit.PCR(8)),
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := keypolicy.Parse(birth.Policy)
	if err != nil {
		t.Fatal(err)
	}
	want := r.params
	want.Admins, want.PCR0 = []string{admin}, []nitro.PCR{attestkit.PCR(0)}
	want.PCR8 = []nitro.PCR{next, attestkit.PCR(8)}
	slices.SortFunc(want.PCR8, func(a, b nitro.PCR) int { return slices.Compare(a[:], b[:]) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if birth.KMS == r.cfg.KeyARN || r.kms.Key(birth.KMS) == nil || r.kms.Key(birth.KMS).Policy != string(birth.Policy) {
		t.Error("not the new key, or not its policy")
	}
	if err := keyring.CheckBirth(birth.Document, birth.KMS, birth.Policy, r.module.Authority.Root); err != nil {
		t.Errorf("its own birth document: %v", err)
	}
	checkCreateCall(t, r)
	r.cfg.KeyARN = birth.KMS
	if policy, err := r.keyring(t).Inspect(t.Context()); err != nil || string(policy) != string(birth.Policy) {
		t.Errorf("inspecting the new key: %v", err)
	}
}

func checkCreateCall(t *testing.T, r *rig) {
	t.Helper()
	calls := r.kms.Calls()
	i := slices.IndexFunc(calls, func(c testkitCall) bool { return c.Operation == "CreateKey" })
	if i < 1 || calls[i-1].Operation != "GetCallerIdentity" {
		t.Fatal("no CreateKey after a look at the credentials")
	}
	in := calls[i].Input
	delete(in, "Policy")
	delete(in, "Description")
	want := map[string]any{
		"BypassPolicyLockoutSafetyCheck": true, "KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "Origin": "AWS_KMS", "MultiRegion": false,
		"Tags": []any{map[string]any{"TagKey": "cape:use", "TagValue": "kek"}},
	}
	if diff := cmp.Diff(want, in); diff != "" {
		t.Error(diff)
	}
}

func TestCreateRefuses(t *testing.T) {
	other := nitro.Extend(nitro.PCR{}, []byte("other"))
	good := wire.KEKRequest{PCR8: list(attestkit.PCR(8))}
	for _, tc := range []struct {
		name   string
		req    wire.KEKRequest
		change func(r *rig, cfg *keyring.Config)
		want   error
	}{
		{"a key is named", good, func(r *rig, cfg *keyring.Config) { cfg.KeyARN = r.cfg.KeyARN }, keyring.ErrConfig},
		{"no Region", good, func(_ *rig, cfg *keyring.Config) { cfg.Region = "" }, keyring.ErrConfig},
		{"Region that is a host", good, func(_ *rig, cfg *keyring.Config) { cfg.Region = "evil.example/" }, keyring.ErrConfig},
		{"no role", good, func(_ *rig, cfg *keyring.Config) { cfg.Role = "" }, keyring.ErrConfig},
		{"no PCR8", wire.KEKRequest{}, nil, keyring.ErrConfig},
		{"PCR8 of unsigned images", wire.KEKRequest{PCR8: list(nitro.PCR{}, attestkit.PCR(8))}, nil, keyring.ErrConfig},
		{"short PCR8", wire.KEKRequest{PCR8: [][]byte{make([]byte, 32)}}, nil, keyring.ErrConfig},
		{"short PCR0", wire.KEKRequest{PCR0: [][]byte{{}}, PCR8: list(attestkit.PCR(8))}, nil, keyring.ErrConfig},
		{"administrator is everybody", wire.KEKRequest{Admins: []string{"*"}, PCR8: list(attestkit.PCR(8))}, nil, keyring.ErrConfig},
		{"PCR8 without our own", wire.KEKRequest{PCR8: list(other)}, nil, keyring.ErrOtherPublisher},
		{"PCR0 without our own", wire.KEKRequest{PCR0: list(other), PCR8: list(attestkit.PCR(8))}, nil, keyring.ErrOtherImage},
		{"unsigned image", good, func(r *rig, _ *keyring.Config) { r.module.Set(8, nitro.PCR{}) }, keyring.ErrUnsigned},
		{"debug mode", good, func(r *rig, _ *keyring.Config) { r.module.Set(0, nitro.PCR{}) }, keyring.ErrDebug},
		{"trust not locked", good, func(r *rig, _ *keyring.Config) { r.module.Unlock(16) }, keyring.ErrTrustOpen},
		{"another identity", good, func(r *rig, _ *keyring.Config) { r.kms.Identity = "arn:aws:sts::111122223333:assumed-role/evil/s" }, keyring.ErrIdentity},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			cfg := r.forCreate()
			if tc.change != nil {
				tc.change(r, &cfg)
			}
			birth, err := keyring.Create(t.Context(), cfg, tc.req)
			if !errors.Is(err, tc.want) || !cmp.Equal(birth, wire.Birth{}) {
				t.Errorf("got %v", err)
			}
			for _, c := range r.kms.Calls() {
				if c.Operation == "CreateKey" {
					t.Error("a key was made")
				}
			}
		})
	}
}

func TestCreateOfAnotherKey(t *testing.T) {
	for name, change := range map[string]struct {
		field string
		v     any
		want  error
	}{
		"made in another Region":  {"Arn", "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000", keyring.ErrOtherKey},
		"made in another account": {"Arn", "arn:aws:kms:eu-west-1:444455556666:key/00000000-0000-0000-0000-000000000000", keyring.ErrOtherKey},
		"multi-Region by name":    {"Arn", "arn:aws:kms:eu-west-1:111122223333:key/mrk-00000000000000000000000000000000", keyring.ErrOtherKey},
		"imported":                {"Origin", "EXTERNAL", keyring.ErrOrigin},
	} {
		r := newRig(t)
		r.kms.Change = func(_ string, status int, a map[string]any) (int, map[string]any) {
			if m, ok := a["KeyMetadata"].(map[string]any); ok {
				m[change.field] = change.v
			}
			return status, a
		}
		if birth, err := keyring.Create(t.Context(), r.forCreate(), wire.KEKRequest{PCR8: list(attestkit.PCR(8))}); !errors.Is(err, change.want) || birth.Document != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := newRig(t)
	r.kms.Change = func(op string, status int, a map[string]any) (int, map[string]any) {
		if op == "GetKeyPolicy" {
			a["Policy"] = mustRender(keypolicy.Params{Partition: "aws", AccountID: account, Role: "arn:aws:iam::111122223333:role/evil", PCR8: r.params.PCR8, PCR16: r.params.PCR16})
		}
		return status, a
	}
	if birth, err := keyring.Create(t.Context(), r.forCreate(), wire.KEKRequest{PCR8: list(attestkit.PCR(8))}); !errors.Is(err, keyring.ErrPolicyRole) || birth.Document != nil {
		t.Errorf("another policy: %v", err)
	}
}

// A new key may be unknown for a moment; a lost answer must not lead to a second key.
func TestCreateWaitsAndAsksOnce(t *testing.T) {
	r := newRig(t)
	unknown := 1
	r.kms.Change = func(op string, status int, a map[string]any) (int, map[string]any) {
		if op == "DescribeKey" {
			if unknown--; unknown >= 0 {
				return http.StatusBadRequest, map[string]any{"__type": "NotFoundException", "message": "no"}
			}
		}
		return status, a
	}
	if _, err := keyring.Create(t.Context(), r.forCreate(), wire.KEKRequest{PCR8: list(attestkit.PCR(8))}); err != nil {
		t.Errorf("unknown for a moment: %v", err)
	}
	r = newRig(t)
	r.kms.Change = func(op string, status int, a map[string]any) (int, map[string]any) {
		if op == "CreateKey" {
			return http.StatusInternalServerError, map[string]any{"__type": "KMSInternalException", "message": "no"}
		}
		return status, a
	}
	if _, err := keyring.Create(t.Context(), r.forCreate(), wire.KEKRequest{PCR8: list(attestkit.PCR(8))}); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	made := 0
	for _, c := range r.kms.Calls() {
		if c.Operation == "CreateKey" {
			made++
		}
	}
	if made != 1 {
		t.Errorf("CreateKey was asked %d times", made)
	}
}

func TestCreateIsCancelled(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.kms.Change = func(op string, status int, a map[string]any) (int, map[string]any) {
		if op == "DescribeKey" {
			cancel()
			return http.StatusBadRequest, map[string]any{"__type": "NotFoundException", "message": "no"}
		}
		return status, a
	}
	if _, err := keyring.Create(ctx, r.forCreate(), wire.KEKRequest{PCR8: list(attestkit.PCR(8))}); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// A birth document that CheckBirth accepts is one of key and policy, under the root.
func TestBirthIsOfKeyAndPolicy(t *testing.T) {
	r := newRig(t)
	birth, err := keyring.Create(t.Context(), r.forCreate(), wire.KEKRequest{PCR8: list(attestkit.PCR(8))})
	if err != nil {
		t.Fatal(err)
	}
	root := r.module.Authority.Root
	for name, err := range map[string]error{
		"another key":          keyring.CheckBirth(birth.Document, r.cfg.KeyARN, birth.Policy, root),
		"policy of other text": keyring.CheckBirth(birth.Document, birth.KMS, append(birth.Policy, ' '), root),
		"AWS's root":           keyring.CheckBirth(birth.Document, birth.KMS, birth.Policy),
		"no document":          keyring.CheckBirth(nil, birth.KMS, birth.Policy, root),
	} {
		if !errors.Is(err, keyring.ErrBirth) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := nitro.Parse(birth.Document)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(birth.Policy)
	var claim wire.BirthClaim
	if err := wire.Unmarshal(s.Document.UserData, 512, &claim); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wire.BirthClaim{V: 2, Use: "kek", KMS: birth.KMS, Policy: sum[:]}, claim); diff != "" {
		t.Error(diff)
	}
}
