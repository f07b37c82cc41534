package testkit

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/cape-functions/cape/core/wire"
)

// Stored is what the host has of one function.
type Stored struct {
	Head wire.StoredFunction
	Body []byte
}

// Host stores what it is given. Its maps may be changed by tests while nothing runs.
type Host struct {
	// Functions are by id, Newest by "user/name", Keys by subject, Accounts by account,
	// KeySets by issuer.
	Functions map[string]*Stored
	Newest    map[string]string
	Keys      map[wire.Subject]*wire.StoredKey
	Accounts  map[[32]byte]*wire.StoredKey
	KeySets   map[string][]byte
	// Intercept may answer instead; it returns whether it did.
	Intercept func(w http.ResponseWriter, r *http.Request) bool

	mu     sync.Mutex
	server *httptest.Server
}

// NewHost starts a host; Close ends it.
func NewHost() *Host {
	h := &Host{Functions: map[string]*Stored{}, Newest: map[string]string{}, Keys: map[wire.Subject]*wire.StoredKey{},
		Accounts: map[[32]byte]*wire.StoredKey{}, KeySets: map[string][]byte{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/functions/{id}", func(w http.ResponseWriter, r *http.Request) { h.give(w, r.PathValue("id")) })
	mux.HandleFunc("GET /v1/names/{user}/{name}", func(w http.ResponseWriter, r *http.Request) {
		h.give(w, h.Newest[r.PathValue("user")+"/"+r.PathValue("name")])
	})
	mux.HandleFunc("PUT /v1/functions/{id}", h.take)
	mux.HandleFunc("GET /v1/keys", h.keyOf)
	mux.HandleFunc("GET /v1/users/{user}/key", h.keyOfUser)
	mux.HandleFunc("PUT /v1/keys", h.takeKey)
	mux.HandleFunc("GET /v1/jwks", func(w http.ResponseWriter, r *http.Request) { h.write(w, h.KeySets[r.FormValue("iss")]) })
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.Intercept != nil && h.Intercept(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return h
}

// Close ends the host.
func (h *Host) Close() {
	h.server.CloseClientConnections()
	h.server.Close()
}

// Dial connects to it.
func (h *Host) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", h.server.Listener.Addr().String())
}

// Serve answers the store link elsewhere, for tests that run a whole runtime.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.server.Config.Handler.ServeHTTP(w, r)
}

// Refuse answers as a host that does not want to.
func Refuse(w http.ResponseWriter, code string) {
	w.WriteHeader(wire.Status(code))
	_ = json.NewEncoder(w).Encode(wire.ErrorBody{Code: code, Error: "no"})
}

func (h *Host) write(w http.ResponseWriter, data []byte) {
	if data == nil {
		Refuse(w, wire.CodeNotFound)
		return
	}
	_, _ = w.Write(data)
}

func (h *Host) give(w http.ResponseWriter, id string) {
	h.mu.Lock()
	f := h.Functions[id]
	h.mu.Unlock()
	if f == nil {
		Refuse(w, wire.CodeNotFound)
		return
	}
	head, err := wire.Marshal(f.Head)
	if err != nil {
		Refuse(w, wire.CodeInternal)
		return
	}
	_, _ = w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(head))))
	_, _ = w.Write(head)
	_, _ = w.Write(f.Body)
}

func (h *Host) take(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil || len(data) < 4 || len(data) < 4+int(binary.BigEndian.Uint32(data)) {
		Refuse(w, wire.CodeInvalidRequest)
		return
	}
	n := 4 + int(binary.BigEndian.Uint32(data))
	f := &Stored{Body: data[n:]}
	if err := wire.Unmarshal(data[4:n], wire.MaxRecord, &f.Head); err != nil || f.Head.ID != r.PathValue("id") {
		Refuse(w, wire.CodeInvalidRequest)
		return
	}
	m, err := wire.ParseManifest(f.Head.Manifest)
	if err != nil {
		Refuse(w, wire.CodeInvalidRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Functions[f.Head.ID] = f
	h.Newest[f.Head.Username+"/"+m.Name] = f.Head.ID
	w.WriteHeader(http.StatusCreated)
}

func (h *Host) giveKey(w http.ResponseWriter, k *wire.StoredKey) {
	if k == nil {
		Refuse(w, wire.CodeNotFound)
		return
	}
	data, err := wire.Marshal(k)
	if err != nil {
		Refuse(w, wire.CodeInternal)
		return
	}
	_, _ = w.Write(data)
}

func (h *Host) keyOf(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if acct, err := hex.DecodeString(r.FormValue("acct")); err == nil && len(acct) == 32 {
		h.giveKey(w, h.Accounts[[32]byte(acct)])
		return
	}
	h.giveKey(w, h.Keys[wire.Subject{Iss: r.FormValue("iss"), Sub: r.FormValue("sub")}])
}

func (h *Host) keyOfUser(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found *wire.StoredKey
	for _, k := range h.Keys {
		if k.Username == r.PathValue("user") {
			found = k
		}
	}
	for _, k := range h.Accounts {
		if k.Username == r.PathValue("user") && r.URL.Query().Has("account") {
			found = k
		}
	}
	h.giveKey(w, found)
}

func (h *Host) takeKey(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	var k wire.StoredKey
	if err != nil || wire.Unmarshal(data, wire.MaxRecord, &k) != nil {
		Refuse(w, wire.CodeInvalidRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(k.Acct) == 32 {
		if first := h.Accounts[[32]byte(k.Acct)]; first != nil {
			h.giveKey(w, first)
			return
		}
		h.Accounts[[32]byte(k.Acct)] = &k
		w.WriteHeader(http.StatusCreated)
		return
	}
	if first := h.Keys[k.Owner]; first != nil {
		h.giveKey(w, first)
		return
	}
	h.Keys[k.Owner] = &k
	w.WriteHeader(http.StatusCreated)
}
