package sandbox

import (
	"os"
	"runtime"
)

// spawnRequest asks the spawner for a process.
type spawnRequest struct {
	argv  []string
	attr  *os.ProcAttr
	reply chan<- spawnReply
}

type spawnReply struct {
	process *os.Process
	err     error
}

// spawner starts all fork servers from one thread, which lives as long as
// the sandbox: the signal at a parent's death is sent when the thread ends.
func spawner(requests <-chan spawnRequest, quit <-chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case r := <-requests:
			p, err := os.StartProcess(r.argv[0], r.argv, r.attr)
			r.reply <- spawnReply{p, err}
		case <-quit:
			return
		}
	}
}

func (s *Sandbox) run(argv []string, attr *os.ProcAttr) (*os.Process, error) {
	reply := make(chan spawnReply, 1)
	select {
	case s.spawn <- spawnRequest{argv, attr, reply}:
		r := <-reply
		return r.process, r.err
	case <-s.quit:
		return nil, ErrClosed
	}
}
