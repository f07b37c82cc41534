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

// Methods of cape_encrypt.
const (
	methodEncrypt = "CapeEncryptRPC.Encrypt"
	methodDecrypt = "CapeEncryptRPC.Decrypt"
)

const (
	// maxRPC bounds the argument of a request, in bytes of JSON. The published
	// client reads at most 10 MiB.
	maxRPC = 24 << 20
	// smallRPC is the size from which on a request needs one of largeRPCs places,
	// so that functions cannot make the runtime hold many large ones at once.
	smallRPC  = 256 << 10
	largeRPCs = 4
	// rpcTime bounds reading a request, and writing an answer.
	rpcTime = 10 * time.Second
)

var errRPC = errors.New("malformed request: one JSON-RPC 1.0 request with one string parameter is expected")

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

// answerAll serves one connection after the other until the listener is closed.
func (h *Host) answerAll(ctx context.Context, l net.Listener, rpc rpcFunc) {
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
		h.answer(ctx, conn, rpc)
		stop()
		conn.Close()
	}
}

// answer serves one request.
func (h *Host) answer(ctx context.Context, conn net.Conn, rpc rpcFunc) {
	if conn.SetDeadline(time.Now().Add(rpcTime)) != nil {
		return
	}
	g := &gate{r: io.LimitReader(conn, maxRPC), places: h.large, ctx: ctx}
	defer g.leave()
	var req rpcRequest
	res := rpcResponse{ID: json.RawMessage("null")}
	result, err := "", error(nil)
	if err = json.NewDecoder(g).Decode(&req); err != nil || len(req.ID) > 256 {
		err = errRPC
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
	case methodEncrypt:
		plain, err := base64.StdEncoding.DecodeString(argument)
		if err != nil {
			return "", errRPC
		}
		envelope, err := rpc(ctx, req.Method, plain)
		return string(envelope), err
	case methodDecrypt:
		plain, err := rpc(ctx, req.Method, []byte(argument))
		return base64.StdEncoding.EncodeToString(plain), err
	}
	return "", errors.New("unknown method: " + methodEncrypt + " and " + methodDecrypt + " exist")
}

// gate reads a request; a large one waits for a place first.
type gate struct {
	r      io.Reader
	places chan struct{}
	ctx    context.Context
	read   int
	inside bool
}

func (g *gate) Read(p []byte) (int, error) {
	if g.read >= smallRPC && !g.inside {
		select {
		case g.places <- struct{}{}:
			g.inside = true
		case <-g.ctx.Done():
			return 0, g.ctx.Err()
		case <-time.After(rpcTime):
			return 0, errors.New("too many large requests at once")
		}
	}
	n, err := g.r.Read(p)
	g.read += n
	return n, err
}

func (g *gate) leave() {
	if g.inside {
		<-g.places
	}
}
