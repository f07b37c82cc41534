package trust

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/wire"
)

// pinned are the measurements that a first contact shows and remembers: the image, its
// signer's certificate, and what the runtime trusts.
var pinned = [...]int{0, 1, 2, 8, wire.TrustPCR}

// Introduction is what a first contact shows.
type Introduction struct {
	Origin string
	// Root is the SHA-256 of the root certificate, lower hex.
	Root string
	// Development tells that the root is not AWS's: whoever has its key, which is
	// somewhere on the server, can imitate any enclave.
	Development bool
	// PCRs are the measurements that will be remembered; 0, 1 and 2 always.
	PCRs map[int]nitro.PCR
	// KeyPolicy is the SHA-256 of the KMS key policy, lower hex, empty if this
	// document does not carry it.
	KeyPolicy string
	// KeyPCR0 and KeyPCR8 are the images and signers that the key opens for, as in Claims;
	// KeyPCR8 is nil if this document does not tell.
	KeyPCR0, KeyPCR8 []nitro.PCR
	// KMS is the ARN of the KEK, and Trust what the runtime believes; empty and nil if
	// this document does not tell.
	KMS   string
	Trust *wire.Trust
}

// NoticeKind tells Notices apart.
type NoticeKind int

// The kinds of notice.
const (
	// DevelopmentRoot: the enclave is not one of AWS's. Sent at every contact.
	DevelopmentRoot NoticeKind = iota + 1
	// Added: the server was remembered.
	Added
	// KeyPolicyAdded: the entry had no key policy yet; New was remembered.
	KeyPolicyAdded
	// NameChanged: Function means other code than last time: Old, New.
	NameChanged
	// PinAdded: the entry had no New of this kind (Function) yet; it was remembered.
	PinAdded
	// AccountAdded: the account New of Function was remembered.
	AccountAdded
	// Unsigned: no account signed Function: the operator could run and decrypt for it.
	Unsigned
	// OpensForOthers: a first contact that nobody was asked about: the KMS key opens for more
	// than the enclave's own image; see Introduction.
	OpensForOthers
	// NotRemembered: the trust file cannot be written; Cause tells why.
	NotRemembered
)

// Notice is something that people should see and that is no reason to stop.
type Notice struct {
	Kind     NoticeKind
	Origin   string
	Root     string
	Function string
	Old, New string
	Cause    error
	// Introduction is what OpensForOthers is about.
	Introduction *Introduction
}

// Keeper is the Judge for people. It is used for one origin at a time.
type Keeper struct {
	// Store is the trust file.
	Store *Store
	// Roots are further roots that the user named for this origin, DER.
	Roots [][]byte
	// PCRs stand in for the remembered measurements of the same index. For an unknown
	// origin they are accepted as its introduction, and nothing is remembered.
	PCRs map[int][]nitro.PCR
	// FirstUse accepts and remembers unknown origins without asking.
	FirstUse bool
	// Own is the caller's own account, if there is one: nobody is asked about it.
	Own *[32]byte
	// Account is the account, lower hex, or wire.UnsignedAccount, that the user expects of
	// a name in this call; empty: none was given.
	Account string
	// AskAccount shows an account that is not known yet and returns whether it was
	// accepted; nil: there is nobody to ask.
	AskAccount func(context.Context, UnknownAccount) (bool, error)
	// Ask shows an introduction and returns whether it was accepted; nil: there is
	// nobody to ask.
	Ask func(context.Context, Introduction) (bool, error)
	// Notify is told what people should see; nil: nobody looks.
	Notify func(Notice)
}

// Enclave implements [Judge].
func (k *Keeper) Enclave(ctx context.Context, c Contact) (*attest.Evidence, error) {
	entry, err := k.Store.Origin(c.Origin)
	if err != nil {
		return nil, err
	}
	var ev *attest.Evidence
	switch {
	case entry != nil:
		ev, err = k.known(ctx, c, entry)
	case len(k.PCRs) > 0 && !k.FirstUse:
		ev, err = k.stated(c)
	default:
		ev, err = k.introduce(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	if ev.DevelopmentRoot {
		k.notify(Notice{Kind: DevelopmentRoot, Origin: c.Origin, Root: hex.EncodeToString(ev.Root[:])})
	}
	return ev, nil
}

// known verifies a document against the entry of its origin.
func (k *Keeper) known(ctx context.Context, c Contact, entry *wire.TrustOrigin) (*attest.Evidence, error) {
	root := entry.RootDER
	if root == nil {
		root = chain.AWSRoot()
	}
	pcrs, err := entryPCRs(entry)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	maps.Copy(pcrs, k.PCRs)
	p := policy.Policy{Roots: [][]byte{root}, PCRs: pcrs}
	ev, claims, err := verify(c, p)
	switch {
	case errors.Is(err, attest.ErrPCR):
		return nil, k.changed(c, entry, p, err)
	case errors.Is(err, attest.ErrRoot):
		return nil, &Change{Origin: c.Origin, Cause: err, Differences: []Difference{
			{What: "root", Old: []string{entry.Root}, New: claimedRoot(c)}}}
	case err != nil:
		return nil, err
	}
	if d := pinDifferences(entry, claims); len(d) > 0 {
		return nil, &Change{Origin: c.Origin, Differences: d}
	}
	if entry.KeyPolicy == "" {
		if err := k.admits(c, pcrs, claims); err != nil {
			return nil, err
		}
	}
	if !c.Archived {
		if err := k.addPins(ctx, c.Origin, entry, claims); err != nil {
			return nil, err
		}
	}
	state := policy.Held
	if claims.KeyPolicy == nil || entry.KeyPolicy == "" && !claims.shown() {
		state = policy.NotChecked
	}
	ev.Checks = append(ev.Checks, pinChecks(state, claims)...)
	return ev, nil
}

// changed lists what differs. The document is verified again without measurements, so
// that only values which the enclave really has are shown.
func (k *Keeper) changed(c Contact, entry *wire.TrustOrigin, p policy.Policy, cause error) error {
	p.PCRsNotChecked, p.PCRs = true, nil
	ev, claims, err := verify(c, p)
	if err != nil {
		return err
	}
	want, err := entryPCRs(entry)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	maps.Copy(want, k.PCRs)
	change := &Change{Origin: c.Origin, Cause: cause, Differences: k.differences(want, ev.Document.PCRs)}
	change.Differences = append(change.Differences, pinDifferences(entry, claims)...)
	return change
}

func (k *Keeper) differences(want map[int][]nitro.PCR, got map[int]nitro.PCR) []Difference {
	var out []Difference
	for _, i := range slices.Sorted(maps.Keys(want)) {
		have, ok := got[i]
		if ok && slices.Contains(want[i], have) {
			continue
		}
		d := Difference{What: "PCR" + strconv.Itoa(i), New: "absent"}
		if ok {
			d.New = have.String()
		}
		for _, v := range want[i] {
			d.Old = append(d.Old, v.String())
		}
		_, d.Stated = k.PCRs[i]
		out = append(out, d)
	}
	return out
}

// stated verifies a document of an unknown origin against the measurements that the
// user gave with the call.
func (k *Keeper) stated(c Contact) (*attest.Evidence, error) {
	p := policy.Policy{Roots: k.acceptable(), PCRs: k.PCRs}
	ev, claims, err := verify(c, p)
	switch {
	case errors.Is(err, attest.ErrPCR):
		p.PCRsNotChecked, p.PCRs = true, nil
		seen, _, again := verify(c, p)
		if again != nil {
			return nil, again
		}
		return nil, &Change{Origin: c.Origin, Cause: err, Differences: k.differences(k.PCRs, seen.Document.PCRs)}
	case errors.Is(err, attest.ErrRoot):
		return nil, &UnknownRoot{Origin: c.Origin, Root: claimedRoot(c), Cause: err}
	case err != nil:
		return nil, err
	}
	if err := k.admits(c, k.PCRs, claims); err != nil {
		return nil, err
	}
	ev.Checks = append(ev.Checks, pinChecks(policy.NotChecked, claims)...)
	return ev, nil
}

// admits refuses a key that opens for images which are not among the accepted ones, unless
// the call pins its policy.
func (k *Keeper) admits(c Contact, accepted map[int][]nitro.PCR, claims Claims) error {
	if c.KeyPolicy != nil {
		return nil
	}
	d := foreign(accepted, claims)
	if len(d) == 0 {
		return nil
	}
	for i := range d {
		d[i].Stated = len(k.PCRs) > 0
	}
	return &Change{Origin: c.Origin, Differences: d}
}

// introduce verifies the first document of an origin, asks, and remembers.
func (k *Keeper) introduce(ctx context.Context, c Contact) (*attest.Evidence, error) {
	p := policy.Policy{Roots: k.acceptable(), PCRs: k.PCRs, PCRsNotChecked: len(k.PCRs) == 0}
	ev, claims, err := verify(c, p)
	if errors.Is(err, attest.ErrRoot) {
		return nil, &UnknownRoot{Origin: c.Origin, Root: claimedRoot(c), Cause: err}
	}
	if err != nil {
		return nil, err
	}
	in := Introduction{Origin: c.Origin, Root: hex.EncodeToString(ev.Root[:]), Development: ev.DevelopmentRoot, PCRs: map[int]nitro.PCR{},
		KeyPolicy: hex.EncodeToString(claims.KeyPolicy), KeyPCR0: claims.PCR0, KeyPCR8: claims.PCR8, KMS: claims.KMS}
	if len(k.PCRs) > 0 {
		if err := k.admits(c, k.PCRs, claims); err != nil {
			return nil, err
		}
		if !claims.shown() {
			in.KeyPolicy = "" // it may open for others than the stated images
		}
	}
	if claims.Trust != nil {
		if in.Trust, err = readTrust(claims.Trust); err != nil {
			return nil, fmt.Errorf("%w: the runtime's trust: %w", attest.ErrField, err)
		}
	}
	for _, i := range pinned {
		if pcr, ok := ev.Document.PCRs[i]; ok {
			in.PCRs[i] = pcr
		} else if i <= 2 {
			return nil, fmt.Errorf("%w: PCR%d is absent", attest.ErrPCR, i)
		}
	}
	if !k.FirstUse {
		if k.Ask == nil {
			return nil, &Unknown{Introduction: in}
		}
		yes, err := k.Ask(ctx, in)
		if err != nil {
			return nil, err
		}
		if !yes {
			return nil, &Unknown{Introduction: in, Declined: true}
		}
	}
	if err := k.remember(ctx, c, ev, in, claims.Trust); err != nil {
		return nil, err
	}
	ev.Checks = append(ev.Checks, pinChecks(policy.Held, claims)...)
	return ev, nil
}

// remember writes the entry of a first contact. If another process did so meanwhile,
// its entry must accept this document as well.
func (k *Keeper) remember(ctx context.Context, c Contact, ev *attest.Evidence, in Introduction, believes []byte) error {
	entry := &wire.TrustOrigin{Root: in.Root, Development: in.Development, PCRs: map[string][]string{},
		KeyPolicy: in.KeyPolicy, KMS: in.KMS, Trust: believes, Added: c.At.UTC().Format(time.RFC3339)}
	if in.Development {
		entry.RootDER = ev.Document.CABundle[0]
	}
	for i, pcr := range in.PCRs {
		entry.PCRs[strconv.Itoa(i)] = []string{pcr.String()}
	}
	taken := false
	err := k.Store.Update(ctx, func(f *wire.TrustFile) error {
		if taken = f.Origins[c.Origin] != nil; !taken {
			f.Origins[c.Origin] = entry
		}
		return nil
	})
	if err != nil {
		return err
	}
	if taken {
		_, err := k.Enclave(ctx, c)
		return err
	}
	k.notify(Notice{Kind: Added, Origin: c.Origin, Root: in.Root})
	if images, signers := in.Others(); k.FirstUse && in.KeyPCR8 != nil && (len(in.KeyPCR0) == 0 || len(images)+len(signers) > 0) {
		k.notify(Notice{Kind: OpensForOthers, Origin: c.Origin, Introduction: &in})
	}
	return nil
}

// unwritable turns a file that may not be written, which is how a pinned configuration
// is deployed, into a notice.
func (k *Keeper) unwritable(origin string, err error) error {
	if errors.Is(err, fs.ErrPermission) || isReadOnly(err) {
		k.notify(Notice{Kind: NotRemembered, Origin: origin, Cause: err})
		return nil
	}
	return err
}

func (k *Keeper) acceptable() [][]byte { return append([][]byte{chain.AWSRoot()}, k.Roots...) }

func (k *Keeper) notify(n Notice) {
	if k.Notify != nil {
		k.Notify(n)
	}
}

// claimedRoot is the root that an unverified document names, for the message alone.
func claimedRoot(c Contact) string {
	r := attest.Inspect(c.Verifier, c.Document, policy.Policy{Roots: [][]byte{chain.AWSRoot()}, PCRsNotChecked: true, NonceNotChecked: true}, c.At)
	return hex.EncodeToString(r.Root[:])
}

func awsRoot() string { return chain.AWSRootSHA256 }
