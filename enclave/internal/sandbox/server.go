package sandbox

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// A fork server is executed afresh after so many jails or so much time: those of one server share the
// layout of its memory.
const (
	serverJails = 500
	serverTime  = 10 * time.Minute
)

// server is a running fork server. It is left to end when its last jail has; when the runtime is gone, it ends by itself.
type server struct {
	process  *os.Process
	control  *peer
	landlock int
	seen     namespaces // none without
	born     time.Time

	asking sync.Mutex // one request at a time

	mu      sync.Mutex
	served  int
	living  int
	retired bool
}

// startServer executes a fork server and sets it up.
func (s *Sandbox) startServer() (*server, error) {
	program, err := filter(s.plain && !s.users.own())
	if err != nil {
		return nil, err
	}
	var code []byte
	for _, i := range program {
		code = binary.LittleEndian.AppendUint16(code, i.Op)
		code = binary.LittleEndian.AppendUint32(append(code, i.Jt, i.Jf), i.K)
	}
	control, theirs, err := newPeer()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	tmp := "/tmp"
	p, err := os.StartProcess(s.cfg.Server[0], s.cfg.Server, &os.ProcAttr{
		Dir: "/", Files: []*os.File{s.null, s.null, s.null, theirs}, Sys: s.attributes(),
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + tmp, "TMPDIR=" + tmp, "LANG=C.UTF-8"},
	})
	if err != nil {
		control.conn.Close()
		return nil, fmt.Errorf("%w: starting the fork server: %w", ErrSetup, err)
	}
	srv := &server{process: p, control: control, born: time.Now()}
	control.conn.SetDeadline(time.Now().Add(setupTime))
	id := s.workerID()
	err = control.send(setup{
		Plain: s.plain, Root: s.root, Trees: s.trees, Links: s.view.links, Show: s.view.show, Filter: hex.EncodeToString(code),
		Scratch: defaultScratch,
		Etc: map[string]string{
			"passwd": fmt.Sprintf("cape:x:%d:%d:cape:/tmp:/bin/sh\n", id, id),
			"group":  fmt.Sprintf("cape:x:%d:\n", id),
			"hosts":  "127.0.0.1 localhost\n::1 localhost\n",
		},
	})
	if err == nil {
		var a answer
		a, _, err = control.receive()
		srv.landlock = a.Landlock
	}
	if err == nil && !s.plain {
		srv.seen, err = readNamespaces(fmt.Sprintf("/proc/%d", p.Pid))
	}
	if err != nil {
		srv.end()
		return nil, fmt.Errorf("%w: setting up the fork server: %w", ErrSetup, err)
	}
	control.conn.SetDeadline(time.Time{})
	return srv, nil
}

// ask sends a request for a jail; the answer comes over the jail's own socket.
func (srv *server) ask(b birth, files []*os.File) error {
	srv.asking.Lock()
	defer srv.asking.Unlock()
	srv.control.conn.SetWriteDeadline(time.Now().Add(setupTime))
	return srv.control.send(b, files...)
}

// end ends the server's process. Jails that it forked live on.
func (srv *server) end() {
	srv.process.Kill()
	srv.process.Wait()
	srv.control.conn.Close()
}

// leave notes the end of a jail.
func (srv *server) leave() {
	srv.mu.Lock()
	srv.living--
	last := srv.retired && srv.living == 0
	srv.mu.Unlock()
	if last {
		srv.end()
	}
}

// retire lets go of a server: it ends with its last jail, whose parent it is.
func (srv *server) retire() {
	srv.mu.Lock()
	first := !srv.retired
	srv.retired = true
	last := first && srv.living == 0
	srv.mu.Unlock()
	if last {
		srv.end()
	}
}

// enter notes a jail that is about to be forked; false when the server has had its time.
func (srv *server) enter() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.retired || srv.served >= serverJails || time.Since(srv.born) > serverTime || gone(srv.process.Pid) {
		return false
	}
	srv.served++
	srv.living++
	return true
}

// gone says whether a child of this process is dead.
func gone(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := strings.LastIndexByte(string(data), ')')
	return err != nil || i < 0 || strings.HasPrefix(string(data[i:]), ") Z")
}

// server returns a fork server with one more jail counted as living.
func (s *Sandbox) server() (*server, error) {
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if s.current != nil && s.current.enter() {
		return s.current, nil
	}
	fresh, err := s.startServer()
	if err != nil {
		return nil, err
	}
	if s.current != nil {
		s.current.retire()
	}
	s.current = fresh
	fresh.enter()
	return fresh, nil
}
