package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// maxMessage bounds a message between the runtime and a jail's first process.
// Both are our own program; the bound keeps a mistake from becoming a hang.
const maxMessage = 256 << 10

// order is what the runtime tells a jail's first process, once.
type order struct {
	Namespaces bool // own namespaces; without, only limits
	Probe      bool // build, say how it went, and end
	UserNS     bool
	Copy       bool   // copy the tree: overlayfs does not work here
	Root       string // mount point for the new root, or the folder for a copy
	Args       []string
	ReadOnly   []string
	Tree       string
	Name       string
	ID         int  // user and group of the program
	Switch     bool // ID is not this process's own
	Limits     Limits
	Files      int
	Socket     bool
}

// report is what the first process says: once when the program was started,
// once when it ended.
type report struct {
	Error     string
	Ready     bool
	NoOverlay string // why overlayfs did not work
	NoPivot   string // why pivot_root did not work
	Nested    string // why further user namespaces could not be turned off
	Ended     bool
	Code      int
	Signal    int
}

func writeMessage(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d allowed", len(body), maxMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d allowed", n, maxMessage)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}
