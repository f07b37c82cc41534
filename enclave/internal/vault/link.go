package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// Dial connects to the store link of the host.
type Dial func(ctx context.Context) (net.Conn, error)

// link speaks HTTP to the host's store.
type link struct {
	http *http.Client
}

const (
	maxErrorBody = 8 << 10
	// worthDraining is how much of an unread body is read so that the connection lives.
	worthDraining = 64 << 10
	// expectAbove asks before a body of that size is sent, so that a refusal comes first.
	expectAbove = 1 << 20
	// linkBuffer is what a connection reads and writes at once.
	linkBuffer = 64 << 10
)

func newLink(dial Dial) *link {
	return &link{&http.Client{
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableCompression:     true,
			WriteBufferSize:        linkBuffer,
			ReadBufferSize:         linkBuffer,
			MaxIdleConnsPerHost:    16,
			IdleConnTimeout:        time.Minute,
			ResponseHeaderTimeout:  wire.LinkCall,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: wire.MaxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (l *link) close() { l.http.CloseIdleConnections() }

func request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://store"+path, body)
	if err != nil {
		return nil, fmt.Errorf("asking the host: %w", err)
	}
	return req, nil
}

// call is a request whose body and answer are small.
func (l *link) call(ctx context.Context, method, path string, in []byte, limit int64) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.LinkCall)
	defer cancel()
	req, err := request(ctx, method, path, bytes.NewReader(in))
	if err != nil {
		return 0, nil, err
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if err := refusal(resp); err != nil {
		return 0, nil, err
	}
	out, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if int64(len(out)) > limit {
		return 0, nil, ErrHead
	}
	return resp.StatusCode, out, nil
}

// refusal is the error of a status that is not a success.
func refusal(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return nil
	case http.StatusNotFound:
		return ErrNotFound
	}
	known := []string{wire.CodeQuota, wire.CodeTooLarge, wire.CodeUnavailable}
	var body wire.ErrorBody
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil || json.Unmarshal(data, &body) != nil || !slices.Contains(known, body.Code) {
		body.Code = wire.CodeUnavailable
	}
	return &HostError{Code: body.Code}
}

// stream is a long body. Whoever reads it must not pause longer than wire.BodyStall, and the
// host neither.
type stream struct {
	body    io.ReadCloser
	length  int64
	stalled *time.Timer
	cancel  context.CancelFunc
	once    sync.Once
}

// get opens a record. Only the wait for the answer depends on ctx.
func (l *link) get(ctx context.Context, path string) (*stream, error) {
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	req, err := request(detached, http.MethodGet, path, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := l.http.Do(req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := refusal(resp); err != nil {
		resp.Body.Close()
		cancel()
		return nil, err
	}
	return &stream{body: resp.Body, length: resp.ContentLength, cancel: cancel,
		stalled: time.AfterFunc(wire.BodyStall, cancel)}, nil
}

func (s *stream) Read(p []byte) (int, error) {
	s.stalled.Reset(wire.BodyStall)
	n, err := s.body.Read(p)
	s.length -= int64(n)
	return n, err
}

// Close ends the request. It may be called more than once.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.stalled.Stop()
		if s.length >= 0 && s.length <= worthDraining {
			timer := time.AfterFunc(time.Second, s.cancel)
			if _, err := io.CopyN(io.Discard, s.body, s.length); err == nil {
				_, err = s.body.Read(make([]byte, 1)) // sees the end
				_ = err                               // the connection is reused or not
			}
			timer.Stop()
		}
		s.body.Close()
		s.cancel()
	})
	return nil
}

// readHead reads u32be(len) || CBOR into v.
func readHead(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return headError(err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > wire.MaxRecord {
		return ErrHead
	}
	head := make([]byte, n)
	if _, err := io.ReadFull(r, head); err != nil {
		return headError(err)
	}
	if err := wire.Unmarshal(head, wire.MaxRecord, v); err != nil {
		return fmt.Errorf("%w: %w", ErrHead, err)
	}
	return nil
}

func headError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrHead
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// put sends a record of known size and waits for the host's word that it is stored.
func (l *link) put(ctx context.Context, path string, body io.Reader, size int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	guard := &guarded{r: body, stalled: time.AfterFunc(wire.BodyStall, cancel)}
	defer guard.Close() // nothing reads body after this function returned
	req, err := request(ctx, http.MethodPut, path, guard)
	if err != nil {
		return err
	}
	req.ContentLength = size
	if size > expectAbove {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if err := refusal(resp); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return &HostError{Code: wire.CodeUnavailable}
	}
	return nil
}

// guarded is a request body that the transport cannot read any more once Close returned:
// the memory behind it is unmapped then.
type guarded struct {
	mu      sync.Mutex
	r       io.Reader
	stalled *time.Timer
	closed  bool
}

func (g *guarded) Read(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0, io.ErrClosedPipe
	}
	g.stalled.Reset(wire.BodyStall)
	n, err := g.r.Read(p)
	if err != nil {
		g.stalled.Stop() // from here on the transport's own deadline holds
	}
	return n, err
}

func (g *guarded) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.stalled.Stop()
	return nil
}
