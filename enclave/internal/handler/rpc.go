package handler

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"time"
)

// Methods of cape_encrypt, as Options.RPC is asked for them.
const (
	MethodEncrypt = "CapeEncryptRPC.Encrypt"
	MethodDecrypt = "CapeEncryptRPC.Decrypt"
)

const (
	// maxRPC bounds the argument of a request, in bytes of JSON. The published
	// client reads at most 10 MiB.
	maxRPC = 24 << 20
	// smallRPC is the size from which on a request needs memory of its caller's
	// share, as much as decoding and answering the largest takes.
	smallRPC = 256 << 10
	heldRPC  = 6 * maxRPC
	// rpcTime bounds reading a request, and writing an answer.
	rpcTime = 10 * time.Second
	// rpcPause bounds the time between two pieces of a large request.
	rpcPause = time.Second
)

var (
	errRPC   = errors.New("malformed request: one JSON-RPC 1.0 request with one string parameter is expected")
	errLarge = errors.New("no memory left for a request of this size: try again later")
)

// rpcRequest is a JSON-RPC 1.0 request.
type rpcRequest struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	// Params holds one argument; what comes after the second is not kept.
	Params [2]*string `json:"params"`
}

// rpcResponse answers one; Error is null or a string.
type rpcResponse struct {
	ID     json.RawMessage `json:"id"`
	Result *string         `json:"result"`
	Error  *string         `json:"error"`
}

type rpcFunc = func(ctx context.Context, method string, arg []byte) ([]byte, error)

type reserveFunc = func(n int64) (release func(), err error)

// answerAll serves one connection after the other until the listener is closed.
func answerAll(ctx context.Context, l net.Listener, rpc rpcFunc, reserve reserveFunc) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil { // out of descriptors, for a while
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		answer(ctx, conn, rpc, reserve)
		stop()
		conn.Close()
	}
}

// answer serves one request.
func answer(ctx context.Context, conn net.Conn, rpc rpcFunc, reserve reserveFunc) {
	if conn.SetDeadline(time.Now().Add(rpcTime)) != nil {
		return
	}
	g := &gate{conn: conn, reserve: reserve, end: time.Now().Add(rpcTime)}
	defer g.leave()
	var req rpcRequest
	res := rpcResponse{ID: json.RawMessage("null")}
	result, err := "", error(nil)
	if err = json.NewDecoder(io.LimitReader(g, maxRPC)).Decode(&req); err != nil || len(req.ID) > 256 {
		if !errors.Is(err, errLarge) {
			err = errRPC
		}
	} else {
		if len(req.ID) > 0 {
			res.ID = req.ID
		}
		result, err = perform(ctx, &req, rpc)
	}
	if err != nil {
		text := err.Error()
		res.Error = &text
	} else {
		res.Result = &result
	}
	body, err := json.Marshal(&res)
	if err != nil || conn.SetDeadline(time.Now().Add(rpcTime)) != nil {
		return
	}
	conn.Write(append(body, '\n')) // a function that does not read has itself to blame
}

func perform(ctx context.Context, req *rpcRequest, rpc rpcFunc) (string, error) {
	if req.Params[0] == nil || req.Params[1] != nil {
		return "", errRPC
	}
	argument := *req.Params[0]
	switch req.Method {
	case MethodEncrypt:
		plain, err := base64.StdEncoding.DecodeString(argument)
		if err != nil {
			return "", errRPC
		}
		envelope, err := rpc(ctx, req.Method, plain)
		return string(envelope), err
	case MethodDecrypt:
		plain, err := rpc(ctx, req.Method, []byte(argument))
		return base64.StdEncoding.EncodeToString(plain), err
	}
	return "", errors.New("unknown method: " + MethodEncrypt + " and " + MethodDecrypt + " exist")
}

// gate reads a request; a large one takes memory before it goes on, and is given up when nothing more of it comes.
type gate struct {
	conn    net.Conn
	reserve reserveFunc // nil: everything is allowed
	release func()      // not nil once it is large
	end     time.Time
	read    int
}

func (g *gate) Read(p []byte) (n int, err error) {
	if g.read >= smallRPC {
		if g.release == nil && g.reserve != nil {
			release, err := g.reserve(heldRPC)
			if err != nil {
				return 0, errLarge
			}
			g.release = release
		}
		if err := g.conn.SetReadDeadline(time.Now().Add(min(rpcPause, time.Until(g.end)))); err != nil {
			return 0, err
		}
	}
	n, err = g.conn.Read(p)
	g.read += n
	return n, err
}

func (g *gate) leave() {
	if g.release != nil {
		g.release()
	}
}
