package conformance

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/cape-functions/cape/test/platform"
)

// specified asks a server and compares each answer with spec/control-api.yaml.
type specified struct {
	t        *testing.T
	doc      *openapi3.T
	url      string
	token    string
	http     http.RoundTripper
	answered map[string]bool // "operation status"
}

func specification(t *testing.T, p *platform.Platform) *specified {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile(filepath.Join("..", "..", "spec", "control-api.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return &specified{t: t, doc: doc, url: p.URL, token: p.Token(), http: transport(t, p), answered: map[string]bool{}}
}

// transport trusts the platform's local CA, if it has one.
func transport(t *testing.T, p *platform.Platform) http.RoundTripper {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(p.Dir, "ca.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return http.DefaultTransport
	}
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("ca.pem: %v", err)
	}
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
}

// find returns the route of an operation, as the validator wants it.
func (s *specified) find(operation string) *routers.Route {
	for path, item := range s.doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.OperationID == operation {
				return &routers.Route{Spec: s.doc, Path: path, PathItem: item, Method: method, Operation: op}
			}
		}
	}
	s.t.Fatalf("no operation %s is specified", operation)
	return nil
}

// ask is one request.
type ask struct {
	operation string
	params    map[string]string
	query     string
	bearer    string
	protocols string // of a WebSocket; "" asks without an upgrade
	status    int
}

// do sends a request and checks that the answer is one that is specified.
func (s *specified) do(a ask) {
	s.t.Helper()
	route := s.find(a.operation)
	path := route.Path
	for name, value := range a.params {
		path = strings.Replace(path, "{"+name+"}", value, 1)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), route.Method, s.url+path+a.query, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if a.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+a.bearer)
	}
	if a.protocols != "" {
		for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
			req.Header.Set(name, value)
		}
		req.Header.Set("Sec-WebSocket-Protocol", a.protocols)
	}
	resp, err := s.http.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body []byte
	if resp.StatusCode != http.StatusSwitchingProtocols {
		if body, err = io.ReadAll(resp.Body); err != nil {
			s.t.Fatal(err)
		}
	}
	if resp.StatusCode != a.status {
		s.t.Errorf("%s: status %d instead of %d: %s", a.operation, resp.StatusCode, a.status, body)
		return
	}
	s.answered[a.operation+" "+strconv.Itoa(a.status)] = true
	err = openapi3filter.ValidateResponse(s.t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: a.params, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
	if err != nil {
		s.t.Errorf("%s, status %d: the answer is not as specified: %v\n%s", a.operation, resp.StatusCode, err, body)
	}
}

func (s *specified) status(path string) int {
	s.t.Helper()
	resp, err := http.Get(s.url + path)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// sessions are the WebSocket operations with a path of each.
func sessions(id string) map[string]map[string]string {
	return map[string]map[string]string{"runByID": {"id": id}, "runByName": {"user": "dev", "name": "echo"}, "deploy": nil, "test": nil, "key": nil}
}

const nobodys = "2222222222222222222222"

func (s *specified) askSessions(id string) {
	for operation, params := range sessions(id) {
		s.do(ask{operation: operation, params: params, status: 400})
		s.do(ask{operation: operation, params: params, protocols: "chat", status: 400})
		s.do(ask{operation: operation, params: params, protocols: "cape.runtime", status: 401})
		s.do(ask{operation: operation, params: params, protocols: "cape.runtime, not.a.token", status: 401})
		s.do(ask{operation: operation, params: params, protocols: "cape.runtime, " + s.token, status: 101})
	}
	s.do(ask{operation: "runByID", params: map[string]string{"id": nobodys}, protocols: "cape.runtime, " + s.token, status: 404})
	s.do(ask{operation: "runByName", params: map[string]string{"user": "dev", "name": "none"}, protocols: "cape.runtime, " + s.token, status: 404})
}

func (s *specified) askFunctions(id string) {
	one, none := map[string]string{"id": id}, map[string]string{"id": nobodys}
	s.do(ask{operation: "listFunctions", bearer: s.token, status: 200})
	s.do(ask{operation: "listFunctions", bearer: s.token, query: "?offset=7", status: 200})
	s.do(ask{operation: "listFunctions", bearer: s.token, query: "?limit=0", status: 400})
	s.do(ask{operation: "listFunctions", status: 401})
	s.do(ask{operation: "showFunction", params: one, bearer: s.token, status: 200})
	s.do(ask{operation: "showFunction", params: one, bearer: "not.a.token", status: 401})
	s.do(ask{operation: "showFunction", params: none, bearer: s.token, status: 404})
	s.do(ask{operation: "deleteFunction", params: one, status: 401})
	s.do(ask{operation: "deleteFunction", params: none, bearer: s.token, status: 404})
	s.do(ask{operation: "deleteFunction", params: one, bearer: s.token, status: 200})
}

// unasked are answers that this test cannot bring about: a broken store, and an
// issuer that is somebody else, are tried in host/internal/api.
var unasked = []string{"deleteFunction 503", "discovery 404", "keySet 404", "keySet 503", "listFunctions 503", "showFunction 503"}

// TestControlAPI brings about every answer that spec/control-api.yaml names and
// compares it with what stands there.
func TestControlAPI(t *testing.T) {
	p := platform.Start(t, t.TempDir())
	s := specification(t, p)
	s.do(ask{operation: "userKey", params: map[string]string{"username": "nobody"}, status: 404})
	id := p.Deploy(platform.Function(t, "echo", platform.App("def cape_handler(d): return d\n")))
	s.do(ask{operation: "userKey", params: map[string]string{"username": "dev"}, status: 200})
	for _, operation := range []string{"health", "ready", "releases", "discovery", "keySet"} {
		s.do(ask{operation: operation, status: 200})
	}
	s.askSessions(id)
	s.askFunctions(id)
	s.withoutEnclave(p, id)
	s.askElsewhere()
	var missing []string
	for _, item := range s.doc.Paths.Map() {
		for _, op := range item.Operations() {
			for status := range op.Responses.Map() {
				if name := op.OperationID + " " + status; !s.answered[name] {
					missing = append(missing, name)
				}
			}
		}
	}
	slices.Sort(missing)
	if !slices.Equal(missing, unasked) {
		t.Errorf("specified and never answered:\n%q\nexpected:\n%q", missing, unasked)
	}
	if got := p.Must("list", "-o", "json"); !strings.Contains(got, `"count":0`) {
		t.Errorf("the platform after all that: %s", got)
	}
	t.Logf("answers compared: %q", slices.Sorted(maps.Keys(s.answered)))
}

// askElsewhere asks a platform that moves sessions to a listener of the enclave's.
func (s *specified) askElsewhere() {
	s.t.Helper()
	p := platform.Start(s.t, s.t.TempDir(), "--tls", "enclave")
	other := *s
	other.url, other.token, other.http = p.URL, p.Token(), transport(s.t, p)
	for operation, params := range sessions(nobodys) {
		other.do(ask{operation: operation, params: params, protocols: "cape.v2", status: 307})
	}
}

// withoutEnclave asks while the enclave, which was killed, is being started
// again: that takes no less than the 200 ms for which the host waits first.
func (s *specified) withoutEnclave(p *platform.Platform, id string) {
	s.t.Helper()
	enclave := p.Children()
	if len(enclave) != 1 {
		s.t.Fatalf("caped has the child processes %v; one enclave was expected", enclave)
	}
	if err := syscall.Kill(enclave[0], syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	for slices.Contains(p.Children(), enclave[0]) {
		time.Sleep(time.Millisecond)
	}
	for s.status("/readyz") == http.StatusOK { // until the host has noticed, too
		time.Sleep(time.Millisecond)
	}
	s.do(ask{operation: "ready", status: 503})
	s.do(ask{operation: "userKey", params: map[string]string{"username": "dev"}, status: 503})
	for operation, params := range sessions(id) {
		s.do(ask{operation: operation, params: params, protocols: "cape.runtime, " + s.token, status: 503})
	}
}
