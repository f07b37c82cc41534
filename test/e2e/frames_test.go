package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/test/platform"
)

// rawSession is a WebSocket of which every byte is ours to spoil.
type rawSession struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func dialRaw(t *testing.T, p *platform.Platform, path string) *rawSession {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(40 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: cape\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"+
		"Sec-WebSocket-Protocol: cape.runtime\r\nSec-WebSocket-Protocol: %s\r\n\r\n", path, p.Token())
	s := &rawSession{t, conn, bufio.NewReader(conn)}
	resp, err := http.ReadResponse(s.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	return s
}

// Opcodes of RFC 6455.
const text, binaryFrame, closing = 1, 2, 8

// frame begins a frame that announces size bytes and sends payload, which may be fewer.
func (s *rawSession) frame(opcode byte, size int, payload []byte) {
	s.t.Helper()
	head := binary.BigEndian.AppendUint64([]byte{0x80 | opcode, 0x80 | 127}, uint64(size))
	head = append(head, 0, 0, 0, 0) // a mask that changes nothing
	if _, err := s.conn.Write(append(head, payload...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *rawSession) message(opcode byte, payload []byte) { s.frame(opcode, len(payload), payload) }

// next returns the next frame of the server's; io.EOF stands for the connection's end.
func (s *rawSession) next() (opcode byte, payload []byte, err error) {
	s.t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1] & 0x7f)
	switch size {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(s.r, b[:])
		size = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(s.r, b[:])
		size = binary.BigEndian.Uint64(b[:])
	}
	if err != nil || size > 1<<20 {
		return 0, nil, errors.Join(err, fmt.Errorf("frame of %d bytes", size))
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(s.r, payload)
	return head[0] & 15, payload, err
}

// refused waits for an error that says why, in the protocol's form, and for the
// connection's end after it.
func (s *rawSession) refused() {
	s.t.Helper()
	opcode, payload, err := s.next()
	var e struct{ Error string }
	if err != nil || opcode != text || json.Unmarshal(payload, &e) != nil || e.Error == "" {
		s.t.Errorf("instead of an error: opcode %d, %q, %v", opcode, payload, err)
	}
}

// ended waits for the connection's end, which the server must bring about by itself.
func (s *rawSession) ended() {
	s.t.Helper()
	for {
		_, _, err := s.next()
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			s.t.Error("the server left the connection open")
		}
		if err != nil {
			return
		}
	}
}

// attested greets and returns the session key of the document.
func (s *rawSession) attested() []byte {
	s.t.Helper()
	s.message(text, []byte(`{"message":{"nonce":"`+base64.StdEncoding.EncodeToString(make([]byte, 16))+`"}}`))
	_, payload, err := s.next()
	if err != nil {
		s.t.Fatal(err)
	}
	var got wire.AttestationV1
	if err := wire.DecodeV1(payload, &got); err != nil {
		s.t.Fatal(err)
	}
	doc, err := nitro.Parse(got.Message)
	if err != nil {
		s.t.Fatal(err)
	}
	return doc.Document.PublicKey
}

// TestBadFrames: frames that are none, are of another kind, or end early, against
// the whole platform. Each ends at most its own session, with the reason where
// somebody is left to read it, and the next request works.
func TestBadFrames(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	id := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
	run := "/v1/run/" + id
	half := make([]byte, 1<<20)
	for _, c := range []struct {
		name, path string
		spoil      func(s *rawSession)
	}{
		{"bytes that are no frame", run, func(s *rawSession) {
			s.conn.Write([]byte("\xff\xfe\xfd garbage where a frame is due"))
			s.ended()
		}},
		{"text that is not JSON", run, func(s *rawSession) { s.message(text, []byte("hello")); s.refused(); s.ended() }},
		{"JSON of another form", run, func(s *rawSession) { s.message(text, []byte(`{"message":[1]}`)); s.refused(); s.ended() }},
		{"a nonce that is too short", run, func(s *rawSession) { s.message(text, []byte(`{"message":{"nonce":"AAAA"}}`)); s.refused(); s.ended() }},
		{"binary where text is due", "/v1/deploy", func(s *rawSession) { s.message(binaryFrame, half[:100]); s.refused(); s.ended() }},
		{"text where binary is due", run, func(s *rawSession) { s.attested(); s.message(text, []byte(`{"message":{}}`)); s.refused() }},
		{"a size that no frame may have", "/v1/deploy", func(s *rawSession) {
			s.attested()
			s.message(text, []byte(`{"message":{"function_name":"x","public":false}}`))
			s.frame(binaryFrame, 1<<62, half)
			s.conn.Close()
		}},
		{"a frame cut short before the nonce", run, func(s *rawSession) { s.frame(text, 1000, []byte(`{"mess`)); s.conn.Close() }},
		{"an input cut short", run, func(s *rawSession) { s.attested(); s.frame(binaryFrame, 2<<20, half); s.conn.Close() }},
		{"a deploy cut short", "/v1/deploy", func(s *rawSession) {
			s.attested()
			s.message(text, []byte(`{"message":{"function_name":"cut","public":false}}`))
			s.frame(binaryFrame, 2<<20, half)
			s.conn.Close()
		}},
		{"a deploy that is no envelope", "/v1/deploy", func(s *rawSession) {
			s.attested()
			s.message(text, []byte(`{"message":{"function_name":"no","public":false}}`))
			s.message(binaryFrame, half)
			s.refused()
			s.ended()
		}},
		{"a connection dropped in a test", "/v1/test", func(s *rawSession) { s.attested(); s.conn.Close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spoil(dialRaw(t, p, c.path))
			if got := p.Must("run", id, "next"); got != "next\n" {
				t.Errorf("the next request: %q", got)
			}
		})
	}
	var list struct{ Count int }
	if err := json.Unmarshal([]byte(p.Must("list", "-o", "json")), &list); err != nil || list.Count != 1 {
		t.Errorf("%d functions, %v: one was deployed whole", list.Count, err)
	}
}

// TestSealedFrameCutShort: a sealed input that was cut is refused, and the next
// one on the same connection is answered.
func TestSealedFrameCutShort(t *testing.T) {
	p := start(t, t.TempDir())
	s := dialRaw(t, p, "/v1/run/"+p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n"))))
	key := s.attested()
	frame, err := seal.SealV1(key, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range [][]byte{nil, frame[:20], frame[:len(frame)-1]} {
		s.message(binaryFrame, cut)
		s.refused()
	}
	s.message(binaryFrame, frame)
	_, payload, err := s.next()
	if err != nil {
		t.Fatal(err)
	}
	var got wire.ResultV1
	if err := wire.DecodeV1(payload, &got); err != nil || string(got.Message) != "hello" {
		t.Errorf("%q, %v", payload, err)
	}
}
