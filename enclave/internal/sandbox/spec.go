package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Limits bound one jail. Zero means that a limit is not set.
type Limits struct {
	Memory  uint64 // bytes
	Scratch uint64 // bytes of private file system
	Procs   uint64 // processes and threads
	Files   uint64 // open files of one process
	CPU     uint64 // thousandths of a processor
}

// Spec is what a jail becomes.
type Spec struct {
	// Check starts the judge of sources in the place of the worker.
	Check bool
	// Tree is a folder below Config.Trees whose content the program finds in its working
	// directory, writable, its changes private to this jail. Empty: an empty one.
	Tree string
	// Name is the last element of the working directory's path.
	Name string
	// Limits bound the jail as a whole where cgroups can be had, else each process.
	Limits Limits
	// Output is the size of the largest result, in bytes.
	Output uint64
	// Print keeps what the program prints, in Jail.Stdout and Jail.Stderr.
	Print bool
	// Socket, if set, is an unbound unix stream socket. It is bound and listens at
	// ../rpc.sock, seen from the working directory, before the function is imported.
	Socket *os.File
}

// maxName bounds Spec.Name; file systems allow no more.
const maxName = 255

// tree returns the place of spec's folder below trees, and refuses what cannot become a jail.
func (spec *Spec) tree(trees string) (string, error) {
	name := spec.Name
	if name == "" || name == "." || name == ".." || len(name) > maxName || filepath.Base(name) != name || name == "rpc.sock" {
		return "", fmt.Errorf("%w: %q cannot name a working directory", ErrSetup, name)
	}
	if spec.Tree == "" {
		return "", nil
	}
	real, err := filepath.EvalSymlinks(spec.Tree)
	if err != nil {
		return "", fmt.Errorf("%w: the function's folder: %w", ErrSetup, err)
	}
	rel, err := filepath.Rel(trees, real)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return "", fmt.Errorf("%w: the function's folder is not below %s", ErrSetup, trees)
	}
	return rel, nil
}

// Exit is how a jail ended.
type Exit struct {
	Code        int            // exit status of the program, when Signal is 0
	Signal      syscall.Signal // that ended the program
	OutOfMemory bool           // the kernel ended a process of the jail for want of memory
	Killed      bool           // the jail was ended by Close, or died with its first process
}
