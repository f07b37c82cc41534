package nitro

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// maxOutput bounds what is read of nitro-cli's answer, in bytes.
const maxOutput = 1 << 20

// Error is a call of nitro-cli that failed.
type Error struct {
	// Command is what was called: "run-enclave".
	Command string
	// Code is nitro-cli's own: "E27"; empty when it gave none.
	Code string
	// Text is what happened, one line; Hint what to do about it, maybe empty.
	Text, Hint string
}

// Error implements error.
func (e *Error) Error() string {
	s := "nitro-cli " + e.Command
	if e.Code != "" {
		s += " (" + e.Code + ")"
	}
	s += ": " + e.Text
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// known says in our words what codes of nitro-cli mean that an operator meets
// (https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html).
var known = map[string][2]string{
	"E05": {"the enclave's process could not be started", "see /var/log/nitro_enclaves/nitro_enclaves.log"},
	"E07": {"/run/nitro_enclaves cannot be read", "run as a member of the group ne, and see that nitro-enclaves-allocator ran"},
	"E18": {"its log file belongs to somebody else", "run as a member of the group ne"},
	"E19": {"a file could not be read or written", "check the path of the image and its permissions"},
	"E21": {"a CPU that was asked for is not in the allocator's pool", "change cpu_pool in /etc/nitro_enclaves/allocator.yaml and restart nitro-enclaves-allocator"},
	"E22": {"the allocator's pool has too few CPUs", "raise cpu_count in /etc/nitro_enclaves/allocator.yaml and restart nitro-enclaves-allocator, or lower --cpus"},
	"E26": {"the memory is too small for this image", "raise --memory: it must hold four times the image"},
	"E27": {"the allocator reserved too little memory", "raise memory_mib in /etc/nitro_enclaves/allocator.yaml and restart nitro-enclaves-allocator, or lower --memory"},
	"E28": {"the machine starts no enclaves", "the instance must be launched with enclave options enabled, and /dev/nitro_enclaves must be there"},
	"E29": {"the hypervisor refused a request", "see /var/log/nitro_enclaves/nitro_enclaves.log"},
	"E31": {"memory could not be given to the enclave", "restart nitro-enclaves-allocator: huge pages are fragmented or in use"},
	"E32": {"a CPU could not be given to the enclave", "both threads of a core go together: use an even number of CPUs"},
	"E33": {"the hypervisor could not start the enclave", "see /var/log/nitro_enclaves/nitro_enclaves.log"},
	"E35": {"the image cannot be parsed", "check it with cape eif describe"},
	"E36": {"the enclave did not send its heartbeat (port 9000): the image did not come up", "try the image under QEMU (make image-test); the console of a production enclave cannot be read"},
	"E39": {"the enclave's process does not answer", "it has ended, or belongs to another user: run as the user that started it"},
	"E58": {"another enclave has this name", "end it with nitro-cli terminate-enclave"},
}

var codePattern = regexp.MustCompile(`\[ (E[0-9]{2}) \]`)

// cli calls one nitro-cli.
type cli struct {
	path string
}

// call runs a command and decodes its standard output, JSON, into out.
func (c cli) call(ctx context.Context, wait time.Duration, out any, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/"}
	cmd.WaitDelay = time.Second // the enclave's own process inherits nothing, but nobody promised that
	stdout, stderr := &bounded{}, &bounded{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return &Error{Command: args[0], Text: "no answer within " + wait.String(), Hint: "see /var/log/nitro_enclaves/nitro_enclaves.log"}
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, exec.ErrDot):
		return &Error{Command: args[0], Text: "it is not installed", Hint: "install aws-nitro-enclaves-cli, or name it with --nitro-cli"}
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return explain(args[0], stderr.String()+stdout.String(), err)
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return &Error{Command: args[0], Text: fmt.Sprintf("its answer is not the JSON that was expected (%v)", err), Hint: "is this nitro-cli newer than 1.1?"}
	}
	return nil
}

// explain turns nitro-cli's complaint into ours.
func explain(command, text string, err error) error {
	e := &Error{Command: command}
	if m := codePattern.FindStringSubmatch(text); m != nil {
		e.Code = m[1]
	}
	if ours, ok := known[e.Code]; ok {
		e.Text, e.Hint = ours[0], ours[1]
		return e
	}
	e.Text = firstLine(text)
	if e.Text == "" {
		e.Text = err.Error()
	}
	e.Hint = "see /var/log/nitro_enclaves/nitro_enclaves.log"
	return e
}

// firstLine is one printable line of at most 200 characters.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(line, "?"))
	if r := []rune(line); len(r) > 200 {
		line = string(r[:200])
	}
	return strings.TrimSpace(line)
}

// bounded keeps the first maxOutput bytes.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// The parts that are used of nitro-cli's answers.
type (
	started struct {
		EnclaveID  string
		EnclaveCID uint32
	}
	described struct {
		EnclaveName  string
		EnclaveID    string
		EnclaveCID   uint32
		State, Flags string
		Measurements map[string]string
	}
	terminated struct {
		EnclaveID  string
		Terminated bool
	}
)
