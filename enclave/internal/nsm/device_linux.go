package nsm

import "errors"

// DevicePath is the driver's file.
const DevicePath = "/dev/nsm"

// OpenDevice opens the real module, /dev/nsm.
func OpenDevice() (Transport, error) { return nil, errors.ErrUnsupported }
