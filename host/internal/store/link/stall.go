package link

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// stall ends a request whose other side stopped moving: each read and each
// write has its time, the whole has no limit of its own.
type stall struct {
	rc    *http.ResponseController
	limit time.Duration
}

// newStall uses wire.BodyStall when limit is zero.
func newStall(w http.ResponseWriter, limit time.Duration) stall {
	if limit == 0 {
		limit = wire.BodyStall
	}
	return stall{http.NewResponseController(w), limit}
}

func (s stall) reader(r io.Reader) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		if err := s.rc.SetReadDeadline(time.Now().Add(s.limit)); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

func (s stall) writer(w io.Writer) io.Writer {
	return writeFunc(func(p []byte) (int, error) {
		if err := s.rc.SetWriteDeadline(time.Now().Add(s.limit)); err != nil {
			return 0, err
		}
		return w.Write(p)
	})
}

// done takes the deadlines away, for the next request of the connection.
func (s stall) done() {
	_ = s.rc.SetReadDeadline(time.Time{})
	_ = s.rc.SetWriteDeadline(time.Time{})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

func writeCBOR(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/cbor")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the runtime left
}
