package sandbox

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// Sentinels.
var (
	// ErrLayer: a layer of the jail cannot be had on this machine.
	ErrLayer = errors.New("a layer of the jail cannot be had")
	// ErrSetup: the jail could not be built, for a reason outside the program.
	ErrSetup = errors.New("building the jail failed")
	// ErrClosed: the sandbox was closed.
	ErrClosed = errors.New("sandbox is closed")
)

// Config says how jails are built.
type Config struct {
	// Dir is a directory that belongs to the runtime alone; mount points and, where
	// namespaces cannot be had, private copies of functions live below it.
	Dir string
	// AllowDegraded goes on without layers that this machine cannot have. Layers
	// tells which.
	AllowDegraded bool
}

// Layer is one defence, and whether it is in force.
type Layer struct {
	Name string
	On   bool
	Why  string // what is missing, when it is off
}

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

// Exit is how a jail ended.
type Exit struct {
	Code        int            // exit status of the program, when Signal is 0
	Signal      syscall.Signal // that ended the program
	OutOfMemory bool           // the kernel ended a process of the jail for want of memory
	Killed      bool           // the jail was ended by Close, or died with its first process
}

// Sandbox builds jails. It is safe for concurrent use.
type Sandbox struct{}

// New finds out what this machine can do. Errors: ErrLayer unless
// AllowDegraded, ErrSetup.
func New(Config) (*Sandbox, error) { return nil, ErrSetup }

// Layers lists every defence in a fixed order.
func (s *Sandbox) Layers() []Layer { return nil }

// Start builds a jail and starts the program in it. ctx bounds the building
// alone. Errors: ErrSetup, ErrClosed, ctx's.
func (s *Sandbox) Start(context.Context, Spec) (*Jail, error) { return nil, ErrSetup }

// Close ends all jails.
func (s *Sandbox) Close() error { return nil }

// Jail is a running jail.
type Jail struct{}

// Done is closed when nothing of the jail is left.
func (j *Jail) Done() <-chan struct{} { return nil }

// Exit says how it ended; valid after Done.
func (j *Jail) Exit() Exit { return Exit{} }

// Close ends every process of the jail and waits until nothing of it is left.
func (j *Jail) Close() error { return nil }

// MaybeInit must be the first call of main, and of TestMain, in every program
// that uses this package: a jail's first process is the same program, started
// again. In that process it never returns.
func MaybeInit() {}
