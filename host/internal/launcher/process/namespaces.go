package process

import (
	"os"
	"syscall"

	"github.com/cape-functions/cape/host/internal/launcher/child"
)

// namespaces of the enclave's process: without a network of its own it could
// speak to anything the machine reaches.
const namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS

// namespaceChoices lists clone flags from the best to none.
func namespaceChoices() []uintptr {
	if os.Geteuid() == 0 {
		return []uintptr{namespaces, namespaces | syscall.CLONE_NEWUSER, 0}
	}
	return []uintptr{namespaces | syscall.CLONE_NEWUSER, 0}
}

func attributes(flags uintptr) *syscall.SysProcAttr {
	attr := child.Attributes()
	attr.Cloneflags = flags
	if flags&syscall.CLONE_NEWUSER != 0 {
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}
