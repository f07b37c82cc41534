package testkit

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	sealkit "github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// Lies are what a server does that an honest one does not. They may be set at any time
// through Lie.
type Lies struct {
	// Document changes a document before it is signed; route is "run", "deploy",
	// "test", "key" or "user".
	Document func(route string, d *nitro.Document)
	// UserData changes the user data before it enters the document.
	UserData func(route string, u *wire.UserDataV1)
	// Signed changes the document after it was signed.
	Signed func(raw []byte) []byte
	// Authority signs instead of the server's own.
	Authority *attestkit.Authority
	// Result changes a result after its checksums were signed.
	Result func(*wire.ResultV1)
	// Sign changes a result before its checksums are signed.
	Sign func(*wire.ResultV1)
	// Request handles a request instead of the server if it returns true.
	Request func(http.ResponseWriter, *http.Request) bool
	// Frame replaces the frame that an honest server would send.
	Frame func(route string, frame []byte) []byte
	// Hang never answers an input.
	Hang bool
	// DropUpload ends the connection when a function is on its way.
	DropUpload bool
	// RefuseUpload says so instead of reading a function, and closes.
	RefuseUpload *wire.RemoteError
	// NoSubprotocol chooses no subprotocol.
	NoSubprotocol bool

	Sealed SealedLies
}

// Function is what the server runs.
type Function struct {
	ID, User, Name string
	Zip            []byte
	Public         bool
	Created        time.Time
	Handler        func(input []byte) ([]byte, error)
	// Logs is what the handler prints.
	Logs string
	// Unsigned is a function that a client of v1 deployed. All others are signed by
	// Account of their user, with Seq, unless there is a Manifest.
	Unsigned      bool
	Seq           uint64
	Manifest, Sig []byte
	Key           []byte // that Manifest is signed with, 32 bytes
}

func (f *Function) checksum() []byte {
	sum := sha256.Sum256(f.Zip)
	return sum[:]
}

// Server is a fake of the whole platform.
type Server struct {
	// URL is where it listens.
	URL string
	// Authority signs documents; Authority.Root is their root.
	Authority *attestkit.Authority
	// PCRs are the enclave's.
	PCRs map[int]nitro.PCR
	// KeyPolicy is the SHA-256 of the KMS key policy.
	KeyPolicy [32]byte
	// HTTP is the server below.
	HTTP *httptest.Server

	mu        sync.Mutex
	lies      Lies
	functions []*Function
	requests  []*http.Request
	enclave   *sealkit.Enclave
	signing   *rsa.PrivateKey
	keys      map[string]*rsa.PrivateKey
	accounts  map[string]*account.Key
	count     int
	opens     int
}

// T is what a server needs of a test.
type T interface {
	Fatal(...any)
	Cleanup(func())
}

// New starts a server without TLS that ends with the test.
func New(t T) *Server { return start(t, httptest.NewUnstartedServer(nil), false) }

// NewTLS starts one with TLS; HTTP.Certificate is its certificate.
func NewTLS(t T) *Server { return start(t, httptest.NewUnstartedServer(nil), true) }

func start(t T, h *httptest.Server, tls bool) *Server {
	e := sealkit.NewEnclave(time.Now())
	s := &Server{
		Authority: e.Authority, PCRs: maps.Clone(e.PCRs), KeyPolicy: sha256.Sum256(e.Policy), HTTP: h,
		enclave: e, keys: map[string]*rsa.PrivateKey{}, accounts: map[string]*account.Key{},
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s.signing = key
	h.Config.Handler = http.HandlerFunc(s.serve)
	if tls {
		h.StartTLS()
	} else {
		h.Start()
	}
	s.URL = h.URL
	t.Cleanup(h.Close)
	return s
}

// Lie changes what the server lies about.
func (s *Server) Lie(change func(*Lies)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.lies)
}

func (s *Server) lying() Lies {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lies
}

// Requests returns the requests so far.
func (s *Server) Requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Add adds a function and gives it an id.
func (s *Server) Add(f Function) *Function {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if f.Manifest == nil {
		s.sign(&f)
	}
	f.ID = wire.FunctionID(f.Manifest)
	if f.Created.IsZero() {
		f.Created = time.Now().UTC().Truncate(time.Second)
	}
	if f.Handler == nil {
		f.Handler = handlerOf(f.Zip)
	}
	s.functions = append(s.functions, &f)
	return &f
}

// Echo returns its input.
func Echo(input []byte) ([]byte, error) { return input, nil }

// find returns the function of an id or "user/name", the newest of it.
func (s *Server) find(name string) *Function {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range slices.Backward(s.functions) {
		if f.ID == name || f.User+"/"+f.Name == name {
			return f
		}
	}
	return nil
}

// CapeKey returns the private half of a user's Cape Key, made if there is none.
func (s *Server) CapeKey(user string) *rsa.PrivateKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[user] == nil {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		s.keys[user] = key
	}
	return s.keys[user]
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Clone(r.Context()))
	s.mu.Unlock()
	if lie := s.lying().Request; lie != nil && lie(w, r) {
		return
	}
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(path) < 2 || path[0] != "v1" {
		refuse(w, wire.CodeNotFound, "there is no such route")
		return
	}
	switch path[1] {
	case "releases":
		reply(w, []wire.Release{s.release()})
		return
	case "user":
		s.userKey(w, path[2])
		return
	}
	if slices.Contains(strings.Split(r.Header.Get("Sec-WebSocket-Protocol"), ","), wire.SubprotocolV2) {
		s.sealed(w, r, path[1], strings.Join(path[2:], "/"))
		return
	}
	user, err := userOf(r)
	if err != nil {
		refuse(w, wire.CodeUnauthorized, err.Error())
		return
	}
	switch path[1] {
	case "functions":
		s.api(w, r, user, path[2:])
	case "run", "deploy", "test", "key":
		s.session(w, r, path[1], user, strings.Join(path[2:], "/"))
	default:
		refuse(w, wire.CodeNotFound, "there is no such route")
	}
}

func (s *Server) release() wire.Release {
	m := map[string]string{"HashAlgorithm": "Sha384 { ... }"}
	for _, i := range []int{0, 1, 2} {
		m["PCR"+strconv.Itoa(i)] = s.PCRs[i].String()
	}
	return wire.Release{Measurements: m, Revision: "fake", Python: "3.11", Platform: "linux-x86_64"}
}

func (s *Server) api(w http.ResponseWriter, r *http.Request, user string, path []string) {
	if len(path) == 1 {
		f := s.find(path[0])
		if f == nil || f.User != user {
			refuse(w, wire.CodeNotFound, "there is no such function")
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.Method == http.MethodDelete {
			s.functions = slices.DeleteFunc(s.functions, func(g *Function) bool { return g == f })
		}
		reply(w, struct{}{})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []wire.Function{}
	for _, f := range slices.Backward(s.functions) {
		if f.User == user {
			out = append(out, wire.Function{ID: f.ID, Name: f.Name, CreatedAt: f.Created, Checksum: fmt.Sprintf("%x", f.checksum()),
				Public: f.Public, Size: int64(len(f.Zip))})
		}
	}
	offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	out = out[min(offset, len(out)):]
	reply(w, out[:min(limit, len(out))])
}

func (s *Server) userKey(w http.ResponseWriter, user string) {
	if user == "nobody" {
		refuse(w, wire.CodeNotFound, "there is no such user, or the user never logged in")
		return
	}
	der := publicDER(s.CapeKey(user))
	raw := s.document("user", []byte("0123456789abcdef"), nil, wire.UserDataV1{Key: der})
	reply(w, map[string][]byte{"attestation_document": raw})
}

func publicDER(key *rsa.PrivateKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		panic(err)
	}
	return der
}

// document returns a signed document.
func (s *Server) document(route string, nonce, public []byte, u wire.UserDataV1) []byte {
	if lie := s.lying().UserData; lie != nil {
		lie(route, &u)
	}
	data, err := json.Marshal(u)
	if err != nil {
		panic(err)
	}
	return s.signed(route, nonce, public, data)
}

// signed returns a document with the fields, as an honest server or the lies make it.
func (s *Server) signed(route string, nonce, public, data []byte) []byte {
	lies := s.lying()
	authority := s.Authority
	if lies.Authority != nil {
		authority = lies.Authority
	}
	doc := authority.Document(time.Now())
	doc.Nonce, doc.PublicKey, doc.UserData = nonce, public, data
	doc.PCRs = map[int]nitro.PCR{}
	for i, pcr := range s.PCRs {
		doc.PCRs[i] = pcr
	}
	if lies.Document != nil {
		lies.Document(route, &doc)
	}
	raw := authority.Sign(doc)
	if lies.Signed != nil {
		raw = lies.Signed(raw)
	}
	return raw
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client of a test may be gone
}

func refuse(w http.ResponseWriter, code, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(wire.Status(code))
	_ = json.NewEncoder(w).Encode(wire.ErrorBody{Error: text, Message: "this is a fake server", Code: code})
}
