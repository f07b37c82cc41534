package session_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/session"
)

func TestAdmission(t *testing.T) {
	f := setup(t)
	zip := zipOf(t, "e/app.py", "")
	public := f.deploy("alice", "open", true, zip)
	private := f.deploy("alice", "mine", false, zip)
	const rt = wire.SubprotocolRuntime
	tests := []struct {
		name      string
		route     string
		protocols []string
		status    int
		code      string
	}{
		{"no protocol", "/v1/run/" + public, nil, 400, wire.CodeInvalidRequest},
		{"other protocol", "/v1/run/" + public, []string{"graphql-ws"}, 400, wire.CodeInvalidRequest},
		{"two tokens", "/v1/run/" + public, []string{rt, "alice", "bob"}, 400, wire.CodeInvalidRequest},
		{"no token", "/v1/run/" + public, []string{rt}, 401, wire.CodeUnauthorized},
		{"forged token", "/v1/run/" + public, []string{rt, "forged"}, 401, wire.CodeUnauthorized},
		{"expired token", "/v1/run/" + public, []string{rt, "expired"}, 401, wire.CodeUnauthorized},
		{"issuer away", "/v1/run/" + public, []string{rt, "no-keys"}, 503, wire.CodeUnavailable},
		{"unknown function", "/v1/run/23456789ABCDEFGHJKLMNP", []string{rt, "alice"}, 404, wire.CodeNotFound},
		{"no id", "/v1/run/x", []string{rt, "alice"}, 404, wire.CodeNotFound},
		{"unknown name", "/v1/run/alice/none", []string{rt, "alice"}, 404, wire.CodeNotFound},
		{"name no function has", "/v1/run/alice/%2e%2e", []string{rt, "alice"}, 404, wire.CodeNotFound},
		{"somebody else's", "/v1/run/" + private, []string{rt, "bob"}, 404, wire.CodeNotFound},
		{"somebody else's by name", "/v1/run/alice/mine", []string{rt, "bob"}, 404, wire.CodeNotFound},
		{"token for another function", "/v1/run/" + public, []string{rt, "scoped"}, 404, wire.CodeNotFound},
		{"scoped token deploys", "/v1/deploy", []string{rt, "scoped"}, 401, wire.CodeUnauthorized},
		{"scoped token tests", "/v1/test", []string{rt, "scoped"}, 401, wire.CodeUnauthorized},
		{"scoped token asks for the key", "/v1/key", []string{rt, "scoped"}, 401, wire.CodeUnauthorized},
		{"token without a user deploys", "/v1/deploy", []string{rt, "unnamed"}, 401, wire.CodeUnauthorized},
		{"no such route", "/v1/other", []string{rt, "alice"}, 404, wire.CodeNotFound},
	}
	bodies := map[string]wire.ErrorBody{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, resp, body := f.dial(tt.route, tt.protocols...)
			if c != nil {
				t.Fatal("admitted")
			}
			if resp.StatusCode != tt.status || body.Code != tt.code || body.Error == "" {
				t.Errorf("status %d, body %+v", resp.StatusCode, body)
			}
			bodies[tt.name] = body
		})
	}
	if !strings.Contains(bodies["expired token"].Error, "token is expired") {
		t.Error("published clients look for the phrase")
	}
	if bodies["somebody else's"] != bodies["unknown function"] {
		t.Error("what one may not see must look like what does not exist")
	}
	c := f.enter("/v1/run/"+private, "alice")
	c.seal([]byte("x"))
	c.result([]byte("x"))
	if s := f.logs.String(); strings.Contains(s, "alice") || strings.Contains(s, public) || strings.Contains(s, "expired") {
		t.Error("names in the log")
	}
}

// TestProtocolLines: the original's command line sends two lines, browsers one.
func TestProtocolLines(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	tests := []struct {
		name  string
		lines []string
		want  string
	}{
		{"one line", []string{"cape.runtime, alice"}, "cape.runtime"},
		{"two lines", []string{"cape.runtime", "alice"}, "cape.runtime"},
		{"token first", []string{"alice", "cape.runtime"}, "cape.runtime"},
		{"function token", []string{"cape.function,alice"}, "cape.function"},
		{"newer client", []string{"cape.v2"}, "cape.v2"},
		{"newer client that offers both", []string{"cape.runtime, alice, cape.v2"}, "cape.v2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := f.upgrade(t, "/v1/run/"+id, tt.lines...)
			if resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("status %d", resp.StatusCode)
			}
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != tt.want {
				t.Errorf("chose %q", got)
			}
			if e := resp.Header.Get("Sec-WebSocket-Extensions"); e != "" {
				t.Errorf("extension %q", e)
			}
		})
	}
}

// upgrade writes a handshake by hand, as a browser of another origin that compresses.
func (f *fixture) upgrade(t *testing.T, route string, lines ...string) *http.Response {
	t.Helper()
	raw, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	fmt.Fprintf(raw, "GET %s HTTP/1.1\r\nHost: x\r\nOrigin: https://elsewhere.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n", route)
	for _, l := range lines {
		fmt.Fprintf(raw, "Sec-WebSocket-Protocol: %s\r\n", l)
	}
	fmt.Fprint(raw, "\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestPlainRequestsGetJSON(t *testing.T) {
	f := setup(t)
	for _, route := range []string{"/v1/run/x", "/v1/deploy", "/v1/test", "/v1/key"} {
		resp, err := http.Get("http://" + f.addr + route)
		if err != nil {
			t.Fatal(err)
		}
		var body wire.ErrorBody
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || resp.StatusCode != 400 || body.Code != wire.CodeInvalidRequest {
			t.Errorf("%s: %d %+v %v", route, resp.StatusCode, body, err)
		}
		resp.Body.Close()
	}
}

func TestNothingIsServedBeforeTheKeyWasInspected(t *testing.T) {
	f := setup(t)
	f.server.Suspend()
	for _, route := range []string{"/v1/run/23456789ABCDEFGHJKLMNP", "/v1/deploy", "/v1/test", "/v1/key"} {
		c, resp, body := f.dial(route, wire.SubprotocolRuntime, "alice")
		if c != nil || resp.StatusCode != 503 || body.Code != wire.CodeUnavailable {
			t.Errorf("%s: %+v", route, body)
		}
	}
	for _, route := range []string{"/v1/user/alice/key", "/healthz"} {
		resp, err := http.Get("http://" + f.addr + route)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 503 {
			t.Errorf("%s: %d", route, resp.StatusCode)
		}
	}
	if f.module.Documents() != 0 || f.keys.Pairs() != 0 {
		t.Error("keys or documents were asked for")
	}
}

func TestSuspendEndsSessions(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	c := f.enter("/v1/run/"+id, "alice")
	c.seal([]byte("x"))
	c.result([]byte("x"))
	f.server.Suspend()
	if code := c.closed(); code != websocket.StatusGoingAway {
		t.Errorf("closed with %d", code)
	}
	waitFor(t, func() bool { return f.functions.running.Load() == 0 })
	f.server.Open(f.policy)
	c = f.enter("/v1/run/"+id, "alice")
	c.seal([]byte("x"))
	c.result([]byte("x"))
}

func TestStopEndsSessionsInTime(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	c := f.enter("/v1/run/"+id, "alice")
	c.seal([]byte("x"))
	c.result([]byte("x"))
	began := time.Now()
	f.stop()
	if err := <-f.served; err != nil {
		t.Error(err)
	}
	f.served <- nil
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("took %s", d)
	}
	if f.functions.running.Load() != 0 {
		t.Error("a handler is left")
	}
}

// TestTooManySessions: alice alone gets half of the places, and bob the next.
func TestTooManySessions(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.MaxSessions = 3 })
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	var sessions []*conn
	waitFor(t, func() bool { // those of the deploy may still be ending
		c, _, _ := f.dial("/v1/run/"+id, wire.SubprotocolRuntime, "alice")
		if c != nil {
			c.introduce([]byte("0123456789abcdef"))
			sessions = append(sessions, c)
		}
		return len(sessions) == 2
	})
	first, second := sessions[0], sessions[1]
	if c, resp, body := f.dial("/v1/run/"+id, wire.SubprotocolRuntime, "alice"); c != nil || resp.StatusCode != 429 || body.Code != wire.CodeQuota {
		t.Fatalf("her third session: %+v", body)
	}
	f.begin("/v1/run/"+id, opening("alice", nil)).refused(0, wire.CodeQuota)
	bobs := f.enter("/v1/run/"+id, "bob")
	if c, resp, body := f.dial("/v1/run/"+id, wire.SubprotocolRuntime, "bob"); c != nil || resp.StatusCode != 503 || body.Code != wire.CodeUnavailable {
		t.Fatalf("the fourth session: %+v", body)
	}
	if resp, err := http.Get("http://" + f.addr + "/healthz"); err != nil || resp.StatusCode != 200 {
		t.Error("an enclave that is busy is healthy")
	}
	first.ws.CloseNow()
	waitFor(t, func() bool { return f.slotFree(id) })
	for _, c := range []*conn{second, bobs} {
		c.seal([]byte("x"))
		c.result([]byte("x"))
	}
}

func (f *fixture) slotFree(id string) bool {
	c, _, _ := f.dial("/v1/run/"+id, wire.SubprotocolRuntime, "unnamed")
	if c == nil {
		return false
	}
	c.ws.CloseNow()
	return true
}

// TestHandshakesTakeNoSessions: who gets no further holds up neither sessions nor, for long, other handshakes.
func TestHandshakesTakeNoSessions(t *testing.T) {
	const most, patience = 4, 3 * time.Second
	f := setup(t, func(c *session.Config) { c.MaxSessions, c.MaxHandshakes, c.Timeouts.Patience = 4, most, patience })
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	held := f.enter("/v1/run/"+id, "alice")
	var stuck []*peer
	began := time.Now()
	for len(stuck) < most {
		_, p := f.connect("/v1/run/" + id) // attested, and then silent
		stuck = append(stuck, p)
	}
	c, resp, body := f.dial("/v1/run/"+id, wire.SubprotocolV2)
	soon := time.Since(began) < patience // else it took the place of the first
	if soon && (c != nil || resp.StatusCode != 503 || body.Code != wire.CodeUnavailable) {
		t.Errorf("a handshake too many: %+v", body)
	}
	time.Sleep(patience)
	bobs, _ := f.accepted("/v1/run/"+id, opening("bob", nil))
	bobs.input(1, []byte("x"))
	bobs.result(1, []byte("x"), sha256.Sum256(zipOf(t, "e/app.py", "")))
	if code := stuck[0].closed(); code != websocket.StatusTryAgainLater {
		t.Errorf("the first that waits is closed with %d", code)
	}
	held.seal([]byte("x"))
	held.result([]byte("x"))
}

// TestAccountsAloneTakeNoSessions: account keys cost nothing, so a place is for whom a function lets in.
func TestAccountsAloneTakeNoSessions(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.MaxSessions = 2 })
	zip := zipOf(t, "e/app.py", "")
	m := f.manifest("own", zip)
	m.Access = wire.AccessGrant
	id := f.deployV2(m, zip)
	f.accepted("/v1/run/"+id, opening("", f.alice))
	waitFor(t, func() bool { // that of the deploy may still be ending
		m, ok := f.begin("/v1/run/"+id, opening("", f.alice)).next().(*wire.Failure)
		return ok && m.Code == wire.CodeQuota
	})
	f.enter("/v1/test", "bob") // the last place
	f.begin("/v1/run/"+id, opening("", newAccount(t))).refused(0, wire.CodeNotFound)
}

// TestAccountsOfAUserShareSessions: who makes more accounts gets no more of what there is.
func TestAccountsOfAUserShareSessions(t *testing.T) {
	f := setup(t, func(c *session.Config) { c.MaxSessions = 4 })
	zip := zipOf(t, "e/app.py", "")
	deploy := func(name string) string {
		f.alice = newAccount(t)
		m := f.manifest(name, zip)
		m.Access = wire.AccessGrant
		return f.deployV2(m, zip)
	}
	one, first := deploy("one"), f.alice
	two, second := deploy("two"), f.alice
	answer := func(id string, key *account.Key) any { return f.begin("/v1/run/"+id, opening("", key)).next() }
	for n := 0; n < 2; { // those of the deploys may still be ending
		if _, ok := answer(one, first).(*wire.Accepted); ok {
			n++
		}
	}
	if m, ok := answer(two, second).(*wire.Failure); !ok || m.Code != wire.CodeQuota {
		t.Errorf("another account of the same user: %+v", m)
	}
}

// TestPanicsEndEverything: what a panic leaves behind may be wrong for others, so nobody is served any more.
func TestPanicsEndEverything(t *testing.T) {
	f := setup(t)
	id := f.deploy("alice", "echo", true, zipOf(t, "e/app.py", ""))
	healthy := f.enter("/v1/run/"+id, "alice")
	f.functions.check = func([]byte) error { panic("secret") }
	c := f.enter("/v1/test", "alice")
	c.seal(zipOf(t, "e/app.py", ""))
	c.closed()
	if s := f.logs.String(); strings.Contains(s, "secret") || !strings.Contains(s, "internal fault") {
		t.Errorf("log: %s", s)
	}
	healthy.closed()
	if err := <-f.served; !errors.Is(err, session.ErrPanic) {
		t.Errorf("serving ended with %v", err)
	}
	f.served <- nil

	g := setup(t) // before anybody is admitted
	if c, _, _ := g.dial("/v1/run/"+id, wire.SubprotocolRuntime, "panic"); c != nil {
		t.Error("admitted")
	}
	if err := <-g.served; !errors.Is(err, session.ErrPanic) {
		t.Errorf("serving ended with %v", err)
	}
	g.served <- nil
}

func TestNonces(t *testing.T) {
	f := setup(t)
	for _, n := range []int{8, 12, 24, 512} {
		c, _, _ := f.dial("/v1/key", wire.SubprotocolRuntime, "alice")
		c.introduce(make([]byte, n))
	}
	for _, n := range []int{0, 7, 513} {
		c, _, _ := f.dial("/v1/key", wire.SubprotocolRuntime, "alice")
		c.send(wire.StartV1{Nonce: make([]byte, n)})
		c.refused(wire.CodeInvalidRequest)
		c.closed()
	}
	for _, frame := range []string{"", "{", "null", "[]", `{"message":1}`, `{"message":{"nonce":"%%%"}}`, `{"message":{}} x`} {
		c, _, _ := f.dial("/v1/key", wire.SubprotocolRuntime, "alice")
		c.write(websocket.MessageText, []byte(frame))
		c.refused(wire.CodeInvalidRequest)
		c.closed()
	}
	c, _, _ := f.dial("/v1/key", wire.SubprotocolRuntime, "alice")
	c.write(websocket.MessageText, []byte(`{"message":{"nonce":"AAAAAAAAAAA=","metadata":{"function_authentication_type":""}}}`))
	var a wire.AttestationV1
	c.receive(&a)
	c, _, _ = f.dial("/v1/key", wire.SubprotocolRuntime, "alice")
	c.write(websocket.MessageText, append(append([]byte(`{"message":"`), make([]byte, wire.MaxTextFrame)...), `"}`...))
	c.refused(wire.CodeTooLarge)
}
