package trust

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/cape-functions/cape/core/wire"
)

// Expected implements [Judge]: what is remembered, and the account that the user stated.
func (k *Keeper) Expected(_ context.Context, code Code) (Expected, error) {
	var x Expected
	if k.Account != "" && k.Account != wire.UnsignedAccount {
		x.Account = unhex(k.Account)
	}
	entry, err := k.Store.Origin(code.Origin)
	if err != nil || entry == nil {
		return x, err
	}
	if sum := entry.Functions[code.ID]; code.ID != "" && sum != "" {
		x.Checksum = unhex(sum)
	}
	n := entry.Names[code.Name]
	if n == nil || k.Account != "" && k.Account != n.Account {
		return x, nil
	}
	x.Seq = n.Seq
	if n.Account != wire.UnsignedAccount {
		x.Account = unhex(n.Account)
	}
	return x, nil
}

// unhex decodes what was checked when it was read; nil for nothing.
func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil
	}
	return b
}

// Function implements [Judge]. An id that means other code is refused; a name that does
// is announced. A name of another account is refused, and so is an older version of it, or
// other code under the same version number. An account that is not known yet is shown.
func (k *Keeper) Function(ctx context.Context, code Code) error {
	entry, err := k.Store.Origin(code.Origin)
	if err != nil {
		return err
	}
	sum := hex.EncodeToString(code.Checksum[:])
	if entry == nil {
		return k.newAccount(ctx, code, nil)
	}
	if old, ok := entry.Functions[code.ID]; ok && code.ID != "" && old != sum {
		return &Change{Origin: code.Origin, Differences: []Difference{{What: "function " + code.ID, Old: []string{old}, New: sum}}}
	}
	if err := k.checkAccount(ctx, code, entry); err != nil {
		return err
	}
	named := entry.Names[code.Name]
	if named != nil && named.Checksum != sum && !code.Deployed {
		k.notify(Notice{Kind: NameChanged, Origin: code.Origin, Function: code.Name, Old: named.Checksum, New: sum})
	}
	k.sayUnsigned(code)
	if k.Account != "" && named != nil && named.Account != "" && named.Account != k.Account {
		return nil // what was stated holds for this call alone
	}
	if !k.news(entry, code, sum) {
		return nil
	}
	err = k.Store.Update(ctx, func(f *wire.TrustFile) error {
		e := f.Origins[code.Origin]
		if e == nil {
			return nil
		}
		if d := versionDifferences(e.Names[code.Name], code, sum); len(d) > 0 && k.Account == "" {
			return &Change{Origin: code.Origin, Differences: d}
		}
		k.note(e, code, sum)
		return nil
	})
	return k.unwritable(code.Origin, err)
}

// accountOf is a manifest's account as the trust file writes it.
func accountOf(m *wire.Manifest) string {
	if m.Acct == nil {
		return wire.UnsignedAccount
	}
	return hex.EncodeToString(m.Acct)
}

// checkAccount compares the account of a name, and its version, with what was stated or
// is remembered. An id commits to its account: there is nothing to compare.
func (k *Keeper) checkAccount(ctx context.Context, code Code, entry *wire.TrustOrigin) error {
	if code.Name == "" || code.Manifest == nil || code.Deployed {
		return nil
	}
	named := entry.Names[code.Name]
	if k.Account == "" && named != nil && named.Account != "" {
		if d := versionDifferences(named, code, hex.EncodeToString(code.Checksum[:])); len(d) > 0 {
			return &Change{Origin: code.Origin, Differences: d}
		}
		return nil
	}
	return k.newAccount(ctx, code, entry)
}

// versionDifferences lists why a name is not what it was, as far as signatures tell.
func versionDifferences(was *wire.TrustedNamed, code Code, sum string) []Difference {
	if was == nil || was.Account == "" || code.Manifest == nil || code.Deployed {
		return nil
	}
	now, what := accountOf(code.Manifest), "version of "+code.Name
	switch seq := code.Manifest.Seq; {
	case was.Account != now:
		return []Difference{{What: "account of " + code.Name, Old: []string{was.Account}, New: now}}
	case seq < was.Seq:
		return []Difference{{What: what, Old: []string{strconv.FormatUint(was.Seq, 10) + " or later"}, New: strconv.FormatUint(seq, 10)}}
	case seq == was.Seq && was.Account != wire.UnsignedAccount && was.Checksum != sum:
		return []Difference{{What: fmt.Sprintf("%s (%d): its code", what, seq), Old: []string{was.Checksum}, New: sum}}
	}
	return nil
}

// newAccount judges the account of a name that has none yet.
func (k *Keeper) newAccount(ctx context.Context, code Code, entry *wire.TrustOrigin) error {
	if code.Name == "" || code.Manifest == nil || code.Deployed || code.Pinned && k.Account == "" {
		return nil
	}
	user, _, _ := strings.Cut(code.Name, "/")
	return k.admit(ctx, UnknownAccount{Origin: code.Origin, Name: code.Name, Account: accountOf(code.Manifest)}, user, entry)
}

// admit decides about an account that was found by name: what was stated, one's own, what
// the user has elsewhere, or what somebody says who is asked.
func (k *Keeper) admit(ctx context.Context, found UnknownAccount, user string, entry *wire.TrustOrigin) error {
	switch {
	case k.Account != "":
		if k.Account == found.Account {
			return nil
		}
		return &Change{Origin: found.Origin, Differences: []Difference{{What: "account of " + found.Name, Old: []string{k.Account}, New: found.Account, Stated: true}}}
	case k.Own != nil && hex.EncodeToString(k.Own[:]) == found.Account:
		return nil
	case entry != nil && entry.Accounts[user] == found.Account:
		return nil
	case entry != nil && entry.Accounts[user] != "": // neither unseen nor on a terminal: it is no first use
		return &Change{Origin: found.Origin, Differences: []Difference{{What: "account of " + user, Old: []string{entry.Accounts[user]}, New: found.Account}}}
	case k.FirstUse:
	case k.AskAccount == nil:
		return &found
	default:
		yes, err := k.AskAccount(ctx, found)
		if err != nil {
			return err
		}
		if !yes {
			found.Declined = true
			return &found
		}
	}
	k.notify(Notice{Kind: AccountAdded, Origin: found.Origin, Function: found.Name, New: found.Account})
	return nil
}

// Recipient implements [Judge].
func (k *Keeper) Recipient(ctx context.Context, h Holder) error {
	entry, err := k.Store.Origin(h.Origin)
	if err != nil {
		return err
	}
	now := hex.EncodeToString(h.Account[:])
	if entry != nil && k.Account == "" {
		if was := entry.Accounts[h.User]; was != "" && was != now {
			return &Change{Origin: h.Origin, Differences: []Difference{{What: "account of " + h.User, Old: []string{was}, New: now}}}
		}
	}
	if err := k.admit(ctx, UnknownAccount{Origin: h.Origin, Name: h.User, Account: now}, h.User, entry); err != nil {
		return err
	}
	if entry == nil || entry.Accounts[h.User] != "" {
		return nil
	}
	err = k.Store.Update(ctx, func(f *wire.TrustFile) error {
		if e := f.Origins[h.Origin]; e != nil {
			noteAccount(e, h.User, now)
		}
		return nil
	})
	return k.unwritable(h.Origin, err)
}

func noteAccount(e *wire.TrustOrigin, user, account string) {
	if e.Accounts == nil {
		e.Accounts = map[string]string{}
	}
	if e.Accounts[user] == "" {
		e.Accounts[user] = account
	}
}

func (k *Keeper) sayUnsigned(code Code) {
	if code.Manifest != nil && code.Manifest.Acct == nil {
		what := code.Name
		if what == "" {
			what = code.ID
		}
		k.notify(Notice{Kind: Unsigned, Origin: code.Origin, Function: what})
	}
}

// vouched tells whether somebody said of the code's account that it is the right one: who
// pins a checksum alone has not, and the server's word is not remembered as the user's.
func (k *Keeper) vouched(n *wire.TrustedNamed, code Code) bool {
	switch m := code.Manifest; {
	case m == nil:
		return false
	case code.Pinned && k.Account == "" && !code.Deployed:
		return n != nil && n.Account == accountOf(m)
	}
	return true
}

// news tells whether the entry would change by noting the code.
func (k *Keeper) news(e *wire.TrustOrigin, code Code, sum string) bool {
	if code.ID != "" && e.Functions[code.ID] == "" {
		return true
	}
	if code.Name == "" {
		return false
	}
	n := e.Names[code.Name]
	if n == nil || n.Checksum != sum || code.ID != "" && n.ID != code.ID {
		return true
	}
	m := code.Manifest
	return k.vouched(n, code) && (n.Account != accountOf(m) || n.Seq != m.Seq)
}

func (k *Keeper) note(e *wire.TrustOrigin, code Code, sum string) {
	if code.ID != "" {
		if e.Functions == nil {
			e.Functions = map[string]string{}
		}
		e.Functions[code.ID] = sum
	}
	if code.Name == "" {
		return
	}
	if e.Names == nil {
		e.Names = map[string]*wire.TrustedNamed{}
	}
	n := e.Names[code.Name]
	if n == nil {
		n = &wire.TrustedNamed{}
		e.Names[code.Name] = n
	}
	if n.Checksum != sum || code.ID != "" {
		n.ID = code.ID
	}
	n.Checksum = sum
	if m := code.Manifest; k.vouched(n, code) {
		n.Account, n.Seq = accountOf(m), m.Seq
		if m.Acct != nil {
			user, _, _ := strings.Cut(code.Name, "/")
			noteAccount(e, user, n.Account)
		}
	}
}
