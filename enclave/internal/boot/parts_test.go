package boot

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	nsmkit "github.com/cape-functions/cape/enclave/internal/nsm/testkit"
	"github.com/cape-functions/cape/vsock"
)

func trust() wire.Trust {
	return wire.Trust{Issuers: []wire.Issuer{{Iss: "i", Signer: make([]byte, 32)}}, Role: "arn:aws:iam::111122223333:role/cape"}
}

func TestMeasure(t *testing.T) {
	d := nsm.New(nsmkit.New("measure", time.Now))
	if err := measure(d, trust()); err != nil {
		t.Fatal(err)
	}
	want, err := wire.ExpectedPCR16(trust())
	if err != nil {
		t.Fatal(err)
	}
	for i := range nitro.MaxPCRs {
		value, locked, err := d.PCR(i)
		if err != nil || !locked || (i == wire.TrustPCR) != (value == nitro.PCR(want)) {
			t.Errorf("PCR%d: %s, locked %v, %v", i, value, locked, err)
		}
	}
	if err := measure(d, trust()); !errors.Is(err, ErrRegisters) {
		t.Errorf("a second time: %v", err)
	}
}

// lying is a module that does not do what it says.
type lying struct {
	registers
	extend, lock bool
}

func (l lying) Extend(i int, data []byte) (nitro.PCR, error) {
	if l.extend {
		return nitro.PCR{}, nil
	}
	return l.registers.Extend(i, data)
}

func (l lying) Lock(i int) error {
	if l.lock && i == nitro.MaxPCRs-1 {
		return nil
	}
	return l.registers.Lock(i)
}

func TestMeasureBelievesWhatItReads(t *testing.T) {
	for _, l := range []lying{{extend: true}, {lock: true}} {
		l.registers = nsm.New(nsmkit.New("measure", time.Now))
		if err := measure(l, trust()); !errors.Is(err, ErrRegisters) {
			t.Errorf("got %v", err)
		}
	}
}

func TestRegionOf(t *testing.T) {
	tests := []struct {
		name   string
		routes map[string]uint32
		want   string
	}{
		{"one", map[string]uint32{"kms.eu-west-1.amazonaws.com:443": 1, "sts.eu-west-1.amazonaws.com:443": 2}, "eu-west-1"},
		{"China", map[string]uint32{"kms.cn-north-1.amazonaws.com.cn:443": 1}, "cn-north-1"},
		{"two", map[string]uint32{"kms.eu-west-1.amazonaws.com:443": 1, "kms.eu-west-2.amazonaws.com:443": 1}, ""},
		{"other port", map[string]uint32{"kms.eu-west-1.amazonaws.com:80": 1}, ""},
		{"other domain", map[string]uint32{"kms.eu-west-1.evil.com:443": 1}, ""},
		{"none", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := regionOf(tt.routes); got != tt.want {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	got, err := parseCredentials([]byte(`{"AccessKeyId":"A","SecretAccessKey":"S","Token":"T","Expiration":"2026-03-04T12:00:00Z","Code":"Success"}`))
	if err != nil || got.SessionToken != "T" || !got.CanExpire || got.Expires.Hour() != 12 {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = parseCredentials([]byte(`{"AccessKeyId":"A","SecretAccessKey":"S"}`))
	if err != nil || got.CanExpire {
		t.Errorf("without an end: %+v, %v", got, err)
	}
	for _, bad := range []string{``, `[]`, `{"AccessKeyId":"A"}`, `{"SecretAccessKey":"S"}`, `{"AccessKeyId":"A","SecretAccessKey":"S","Expiration":"soon"}`} {
		if _, err := parseCredentials([]byte(bad)); !errors.Is(err, ErrHost) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestKernelClockFollowsTheModule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		module, set := time.Now().Add(time.Hour), []time.Time{}
		c := &clock{read: func() (time.Time, error) { return module, nil }, set: func(t time.Time) error {
			set = append(set, t)
			return nil
		}}
		if err := c.sync(); err != nil || len(set) != 1 || !set[0].Equal(module) {
			t.Fatalf("an hour behind: %v, %v", set, err)
		}
		module = time.Now().Add(time.Second)
		if err := c.sync(); err != nil || len(set) != 1 {
			t.Errorf("a second behind: %v, %v", set, err)
		}
		module = time.Now().Add(-time.Minute)
		if err := c.sync(); err != nil || len(set) != 2 {
			t.Errorf("a minute ahead: %v, %v", set, err)
		}
		refuse := errors.New("refused")
		c.set = func(time.Time) error { return refuse }
		if err := c.sync(); !errors.Is(err, refuse) {
			t.Errorf("a kernel that refuses: %v", err)
		}
	})
}

// TestDocumentsKeepTheClock: a machine that was stopped is found out by the next document, not by the next minute.
func TestDocumentsKeepTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead, set := time.Duration(0), 0
		d := nsm.New(nsmkit.New("clock", func() time.Time { return time.Now().Add(ahead) }))
		a := attestor{d, &clock{read: d.Time, set: func(time.Time) error { set++; return nil }}}
		if err := a.clock.sync(); err != nil {
			t.Fatal(err)
		}
		ahead = time.Hour
		if _, err := a.Attest(nsm.Request{}); err != nil || set != 1 || time.Until(a.clock.now()) < time.Hour-time.Second {
			t.Errorf("%v, the kernel's clock was set %d times, the runtime's is %s ahead", err, set, time.Until(a.clock.now()))
		}
	})
}

// TestSecondClock: another clock is compared, and never believed.
func TestSecondClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		for other, differs := range map[time.Duration]bool{0: false, 900 * time.Millisecond: false, -time.Minute: true, time.Hour: true} {
			out.Reset()
			c := &clock{
				log:    event.New(&out),
				read:   func() (time.Time, error) { return time.Now(), nil },
				second: func() (time.Time, error) { return time.Now().Add(other), nil },
				set:    func(got time.Time) error { t.Errorf("the kernel's clock was set to %s", got); return nil },
			}
			if err := c.sync(); err != nil || !c.now().Equal(time.Now()) || strings.Contains(out.String(), event.ClocksDiffer) != differs {
				t.Errorf("%s away: %v, %s, log %q", other, err, c.now(), out.String())
			}
		}
		c := &clock{read: func() (time.Time, error) { return time.Now(), nil }, second: func() (time.Time, error) { return time.Time{}, os.ErrNotExist }}
		if err := c.sync(); err != nil {
			t.Errorf("none there: %v", err)
		}
	})
}

func TestClockIsTheModules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		module := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		var mu sync.Mutex // guards what the module says
		fail := false
		c := &clock{log: slog.New(slog.DiscardHandler), read: func() (time.Time, error) {
			mu.Lock()
			defer mu.Unlock()
			if fail {
				return time.Time{}, errors.New("no answer")
			}
			return module, nil
		}}
		if err := c.sync(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if got := c.now(); !got.Equal(module.Add(10 * time.Second)) {
			t.Errorf("now %s", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { c.keep(ctx); close(done) }()
		mu.Lock()
		module = module.Add(time.Hour) // the machine was stopped for an hour
		mu.Unlock()
		time.Sleep(resync)
		synctest.Wait()
		if got := c.now(); got.Before(module) {
			t.Errorf("now %s, the module says %s", got, module)
		}
		mu.Lock()
		fail = true
		mu.Unlock()
		time.Sleep(2 * resync)
		if got := c.now(); got.Before(module.Add(2 * resync)) {
			t.Errorf("without the module: %s", got)
		}
		cancel()
		<-done
	})
}

// door records what watchKey does to the server.
type door struct{ calls []string }

func (d *door) Open(policy []byte) { d.calls = append(d.calls, "open "+string(policy)) }
func (d *door) Suspend()           { d.calls = append(d.calls, "suspend") }

func TestWatchKey(t *testing.T) {
	away, wrong := errors.New("away"), errors.New("grant")
	tests := []struct {
		name  string
		finds []error // one for each inspection
		want  []string
		err   error
	}{
		{"all is well", []error{nil, nil}, []string{"open p", "open p"}, nil},
		{"away for a moment", []error{away, away, nil}, []string{"open p"}, nil},
		{"away for long", []error{away, away, away, away, nil}, []string{"suspend", "open p"}, nil},
		{"not as it must be", []error{nil, wrong}, []string{"open p", "suspend"}, wrong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				d, n := &door{}, 0
				inspect := func(context.Context) ([]byte, error) {
					if n == len(tt.finds) {
						cancel()
						return nil, ctx.Err()
					}
					n++
					return []byte("p"), tt.finds[n-1]
				}
				err := watchKey(ctx, schedule{every: time.Hour, retry: time.Second, retries: 3}, inspect,
					func(err error) bool { return errors.Is(err, wrong) }, d, slog.New(slog.DiscardHandler))
				if !errors.Is(err, tt.err) {
					t.Errorf("got %v", err)
				}
				if diff := cmp.Diff(tt.want, d.calls); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestRoutesAreTheOnlyWayOut(t *testing.T) {
	dial := router(vsock.Unix(t.TempDir(), true), map[string]uint32{"kms:443": wire.PortProxyBase})
	if _, err := dial(t.Context(), "tcp", "evil:443"); !errors.Is(err, ErrHost) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	cfg := wire.Config{Trust: trust(), KMS: "arn", Limits: wire.DefaultLimits()}
	config, err := wire.Marshal(cfg)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range []wire.Boot{
		{Mode: wire.ModeServe, Config: config, Birth: []byte("x"), Routes: map[string]uint32{"a:443": 1}},
		{Mode: wire.ModeServe, Config: config, Birth: []byte("x"), Dev: &wire.DevSettings{KMSEndpoint: "https://k"}},
		{Mode: wire.ModeKMSInit, Init: &wire.KEKRequest{}},
	} {
		data, err := wire.Marshal(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, c, err := parse(data)
		if err == nil && (b.Mode == wire.ModeServe) != (c.KMS != "") {
			t.Error("mode and key do not fit")
		}
	})
}
