package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api/reply"
)

// hopByHop are the headers that speak of one connection (RFC 9110, 7.6.1, and
// what older programs send).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// exchange sends the request's head and passes the answer on. It returns true
// when the connection goes on being carried.
func (g *Gateway) exchange(w http.ResponseWriter, r *http.Request, p *pair) bool {
	// A client that leaves meanwhile ends the enclave's side too.
	stop := context.AfterFunc(r.Context(), p.close)
	defer stop()
	limited := &io.LimitedReader{R: p.enclave, N: wire.MaxHeader}
	answer := bufio.NewReader(limited)
	resp, err := ask(p.enclave, answer, r)
	if err != nil {
		g.cfg.Log.Warn("an enclave did not answer", "reason", err)
		w.Header().Set("Retry-After", "1")
		reply.Error(w, wire.CodeUnavailable, "the enclave does not answer", "try again in a moment")
		return false
	}
	limited.N = math.MaxInt64
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		g.pass(w, resp)
		return false
	}
	stop()
	early, err := take(w, p, resp, answer)
	if err != nil {
		g.cfg.Log.Debug("handing a connection over", "reason", err)
		return false
	}
	go g.carry(p, early)
	return true
}

// ask writes the request's head and reads the answer's.
func ask(enclave net.Conn, answer *bufio.Reader, r *http.Request) (*http.Response, error) {
	if err := enclave.SetWriteDeadline(time.Now().Add(headWait)); err != nil {
		return nil, err
	}
	if err := enclave.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return nil, err
	}
	if _, err := enclave.Write(requestHead(r)); err != nil {
		return nil, fmt.Errorf("sending a request: %w", err)
	}
	resp, err := http.ReadResponse(answer, r)
	if err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && !upgrades(r) {
		return nil, errors.New("the enclave switched protocols unasked")
	}
	return resp, nil
}

func upgrades(r *http.Request) bool {
	for token := range connectionTokens(r.Header) {
		if strings.EqualFold(token, "Upgrade") {
			return r.Header.Get("Upgrade") != ""
		}
	}
	return false
}

// connectionTokens are what the Connection header lists.
func connectionTokens(h http.Header) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range h["Connection"] {
			for token := range strings.SplitSeq(line, ",") {
				if !yield(textproto.TrimString(token)) {
					return
				}
			}
		}
	}
}

// requestHead is the request as it came, every line of every header, without
// those that spoke of the client's own connection.
func requestHead(r *http.Request) []byte {
	h := endToEnd(r.Header)
	if upgrades(r) {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, r.Header["Upgrade"]
	} else {
		h["Connection"] = []string{"close"}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.URL.RequestURI(), r.Host)
	_ = h.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}

// endToEnd copies h without hop-by-hop headers.
func endToEnd(h http.Header) http.Header {
	out := h.Clone()
	for name := range connectionTokens(h) {
		delete(out, textproto.CanonicalMIMEHeaderKey(name))
	}
	for _, name := range hopByHop {
		delete(out, name)
	}
	return out
}

// pass answers the client as the enclave answered; the client's connection
// stays with the HTTP server and may ask for other routes next.
func (g *Gateway) pass(w http.ResponseWriter, resp *http.Response) {
	for name, values := range endToEnd(resp.Header) {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, resp.Body, make([]byte, 32<<10)); err != nil {
		// The client must see that something is missing, not a whole answer.
		g.cfg.Log.Debug("an answer was not passed on whole", "reason", err)
		panic(http.ErrAbortHandler)
	}
}

// take takes the client's connection from the HTTP server and tells the client
// of the switch. It returns what the client had sent meanwhile.
func take(w http.ResponseWriter, p *pair, resp *http.Response, answer *bufio.Reader) ([]byte, error) {
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	if err := p.hold(&p.client, client); err != nil {
		return nil, err
	}
	early, err := rest(buffered.Reader)
	if err != nil {
		return nil, err
	}
	said, err := rest(answer)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = resp.Header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	b.Write(said)
	if err := client.SetDeadline(time.Now().Add(headWait)); err != nil {
		return nil, err
	}
	if _, err := client.Write(b.Bytes()); err != nil {
		return nil, err
	}
	return early, errors.Join(client.SetDeadline(time.Time{}), p.enclave.SetDeadline(time.Time{}))
}

// rest returns what a reader holds already.
func rest(r *bufio.Reader) ([]byte, error) {
	b := make([]byte, r.Buffered())
	_, err := io.ReadFull(r, b)
	return b, err
}
