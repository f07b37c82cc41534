package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Limits bound one jail. Zero means that a limit is not set.
type Limits struct {
	Memory  uint64 // bytes
	Scratch uint64 // bytes of private file system
	Procs   uint64 // processes and threads
}

// Spec is what to run.
type Spec struct {
	// Args is the program, by absolute path, and its arguments.
	Args []string
	// ReadOnly are host directories that the program sees at the same path.
	ReadOnly []string
	// Tree is a host directory whose content the program finds in its working
	// directory, writable, its changes private to this jail. Empty: an empty one.
	Tree string
	// Name is the last element of the working directory's path.
	Name string
	// Limits bound the jail as a whole where cgroups can be had, else each process.
	Limits Limits
	// Stdout and Stderr are the program's; nil is /dev/null.
	Stdout, Stderr *os.File
	// Files are the only other descriptors it has: 3 and up.
	Files []*os.File
	// Socket, if set, is an unbound unix stream socket. It is bound and listens at
	// ../rpc.sock, seen from the working directory, before the program starts.
	Socket *os.File
}

// maxName bounds Spec.Name; file systems allow no more.
const maxName = 255

// validate refuses what cannot become a jail. own is the sandbox's own folder.
func (spec *Spec) validate(own string) error {
	name := spec.Name
	if name == "" || name == "." || name == ".." || len(name) > maxName || filepath.Base(name) != name || name == "rpc.sock" {
		return fmt.Errorf("%w: %q cannot name a working directory", ErrSetup, name)
	}
	if len(spec.Args) == 0 || !filepath.IsAbs(spec.Args[0]) {
		return fmt.Errorf("%w: the program must be an absolute path", ErrSetup)
	}
	if spec.Tree != "" && !filepath.IsAbs(spec.Tree) {
		return fmt.Errorf("%w: the function's folder must be an absolute path", ErrSetup)
	}
	for _, dir := range spec.ReadOnly {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSetup, err)
		}
		if own == real || real == "/" || strings.HasPrefix(own, real+"/") {
			return fmt.Errorf("%w: %s cannot be shown: it holds the sandbox's own folder", ErrSetup, dir)
		}
	}
	return nil
}

// Exit is how a jail ended.
type Exit struct {
	Code        int            // exit status of the program, when Signal is 0
	Signal      syscall.Signal // that ended the program
	OutOfMemory bool           // the kernel ended a process of the jail for want of memory
	Killed      bool           // the jail was ended by Close, or died with its first process
}
