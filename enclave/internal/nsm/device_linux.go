package nsm

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DevicePath is the driver's file.
const DevicePath = "/dev/nsm"

// iovec and message are struct nsm_iovec and struct nsm_raw of include/uapi/linux/nsm.h;
// the driver that AWS shipped before Linux 6.8 has the same layout on 64-bit machines.
type iovec struct {
	addr unsafe.Pointer
	len  uint64
}

type message struct{ request, response iovec }

// ioctlRaw is NSM_IOCTL_RAW, _IOWR(0x0A, 0, struct nsm_raw): direction (read and write) in
// the top two bits, size in the next 14, type, number 0 (asm-generic/ioctl.h).
const ioctlRaw = 3<<30 | unsafe.Sizeof(message{})<<16 | 0x0A<<8

// OpenDevice opens the real module, /dev/nsm. The driver itself serialises requests and
// gives up after its own timeout.
func OpenDevice() (Transport, error) { return openDevice(DevicePath) }

func openDevice(path string) (Transport, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: opening %s: %w (only an enclave has it)", ErrTransport, path, err)
	}
	return &device{f}, nil
}

type device struct{ f *os.File }

// Exchange implements Transport.
func (d *device) Exchange(req []byte) ([]byte, error) {
	if len(req) == 0 || len(req) > MaxRequest {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(req))
	}
	answer := make([]byte, MaxAnswer)
	m := message{
		request:  iovec{unsafe.Pointer(unsafe.SliceData(req)), uint64(len(req))},
		response: iovec{unsafe.Pointer(unsafe.SliceData(answer)), uint64(len(answer))},
	}
	var errno unix.Errno
	conn, err := d.f.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, ioctlRaw, uintptr(unsafe.Pointer(&m)))
		})
	}
	runtime.KeepAlive(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTransport, err)
	}
	if errno != 0 {
		return nil, fmt.Errorf("%w: ioctl: %w", ErrTransport, errno)
	}
	if m.response.len > uint64(len(answer)) {
		return nil, fmt.Errorf("%w: %d bytes in a buffer of %d", ErrAnswer, m.response.len, len(answer))
	}
	return answer[:m.response.len], nil
}

// Close implements Transport.
func (d *device) Close() error { return d.f.Close() }
