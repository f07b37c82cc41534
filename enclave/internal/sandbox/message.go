package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxMessage bounds a message between the runtime and the fork server or a jail's keeper. Both are
// our own programs; the bound keeps a mistake from becoming a hang.
const maxMessage = 256 << 10

// setup is what the runtime tells a fork server, once.
type setup struct {
	Plain   bool              `json:"plain"` // no namespaces, only limits
	Root    string            `json:"root"`  // where to mount the jails' root
	Trees   string            `json:"trees"`
	Links   map[string]string `json:"links"`
	Show    []string          `json:"show"`
	Etc     map[string]string `json:"etc"`
	Filter  string            `json:"filter"` // hexadecimal
	Scratch uint64            `json:"scratch"`
}

// birth asks a fork server for a jail. Descriptors come along: the keeper's socket, four of the worker, those of cgroups:
// a folder of version 2, files of version 1.
type birth struct {
	Dir     string `json:"dir"`     // of a jail without namespaces
	Devices string `json:"devices"` // where device nodes of its own lie; empty: the machine's
	Map     string `json:"map"`     // uid_map
	ID      int64  `json:"id"`      // the worker's user in a jail without namespaces; -1: the runtime's own
}

// order tells a keeper how to put the function in its place.
type order struct {
	Dir     string `json:"dir"`
	ID      int64  `json:"id"`
	Tree    string `json:"tree"` // below setup.Trees
	Name    string `json:"name"`
	Scratch uint64 `json:"scratch"`
	Copy    bool   `json:"copy"` // overlayfs does not work here
}

// task tells a worker, in force of all layers, what to become.
type task struct {
	Dir    string            `json:"dir"`
	Tmp    string            `json:"tmp"`
	Limits map[string]uint64 `json:"limits"` // by the names of RLIMIT_
	Output uint64            `json:"output"`
	Mute   bool              `json:"mute"`
	Check  bool              `json:"check"`
}

// answer is whatever a fork server or a keeper says.
type answer struct {
	Error    string            `json:"error"`
	Landlock int               `json:"landlock"` // version of its interface
	Missing  map[string]string `json:"missing"`  // layers that cannot be had, and why
	Ended    bool              `json:"ended"`    // the worker, as Code and Signal say
	Code     int               `json:"code"`
	Signal   int               `json:"signal"`
}

// peer is one end of a socket that keeps messages apart and carries descriptors.
type peer struct{ conn *net.UnixConn }

// newPeer returns both ends; theirs is for another process.
func newPeer() (ours *peer, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "control")
	defer mine.Close()
	theirs = os.NewFile(uintptr(fds[1]), "control")
	conn, err := net.FileConn(mine)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making a socket: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.Join(errors.New("making a socket: not a unix socket"), conn.Close(), theirs.Close())
	}
	return &peer{unixConn}, theirs, nil
}

func (p *peer) send(v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d allowed", len(body), maxMessage)
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd())) //nolint // the file stays open past this call
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = p.conn.WriteMsgUnix(body, rights, nil)
	return err
}

// receive returns the next message, and the descriptor that came with it or -1. An error that the other side
// tells of is returned as one.
func (p *peer) receive() (a answer, fd int, err error) {
	body, rights := make([]byte, 16<<10), make([]byte, unix.CmsgSpace(4))
	n, rn, _, _, err := p.conn.ReadMsgUnix(body, rights)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return a, -1, err
	}
	fd = descriptor(rights[:rn])
	if err := json.Unmarshal(body[:n], &a); err != nil {
		return a, fd, err
	}
	if a.Error != "" {
		err = errors.New(strings.ToValidUTF8(a.Error, "\uFFFD"))
	}
	return a, fd, err
}

func descriptor(rights []byte) int {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1
	}
	unix.CloseOnExec(fds[0])
	return fds[0]
}
