package session

// pieces is a queue of bytes in pieces of memory of one size, which count against the budget
// of all sessions.
type pieces struct {
	mem  *memory
	list []*[smallBuffer]byte
	from int // where to read in the first piece
	to   int // where to write in the last
	held int // bytes in the queue
}

func (p *pieces) write(b []byte) error {
	p.held += len(b)
	for len(b) > 0 {
		if len(p.list) == 0 || p.to == smallBuffer {
			if err := p.mem.take(smallBuffer); err != nil {
				return err
			}
			p.list = append(p.list, p.mem.piece())
			p.to = 0
		}
		n := copy(p.list[len(p.list)-1][p.to:], b)
		p.to += n
		b = b[n:]
	}
	return nil
}

// read takes at most len(b) bytes out.
func (p *pieces) read(b []byte) int {
	done := 0
	for done < len(b) && p.held > 0 {
		first := p.list[0][p.from:min(smallBuffer, p.from+p.held)]
		n := copy(b[done:], first)
		done, p.from, p.held = done+n, p.from+n, p.held-n
		if p.from == smallBuffer || p.held == 0 {
			p.drop(1)
		}
	}
	return done
}

// drop forgets the first n pieces and what they held.
func (p *pieces) drop(n int) {
	for i, piece := range p.list[:n] {
		if i == len(p.list)-1 {
			clear(piece[:p.to])
		} else {
			clear(piece[:])
		}
		p.mem.small.Put(piece)
		p.mem.give(smallBuffer)
	}
	p.list, p.from = p.list[n:], 0
	if len(p.list) == 0 {
		p.list, p.held = nil, 0
	}
}
