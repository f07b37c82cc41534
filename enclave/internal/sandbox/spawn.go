package sandbox

import (
	"os"
	"runtime"
)

// spawnRequest asks the spawner for a process.
type spawnRequest struct {
	attr  *os.ProcAttr
	reply chan<- spawnReply
}

type spawnReply struct {
	process *os.Process
	err     error
}

// spawner starts all first processes from one thread, which lives as long as
// the sandbox: the signal at a parent's death is sent when the thread ends.
func spawner(requests <-chan spawnRequest, quit <-chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case r := <-requests:
			p, err := os.StartProcess("/proc/self/exe", []string{os.Args[0], initArg}, r.attr)
			r.reply <- spawnReply{p, err}
		case <-quit:
			return
		}
	}
}

func (s *Sandbox) run(attr *os.ProcAttr) (*os.Process, error) {
	reply := make(chan spawnReply, 1)
	select {
	case s.spawn <- spawnRequest{attr, reply}:
		r := <-reply
		return r.process, r.err
	case <-s.quit:
		return nil, ErrClosed
	}
}
