package envelope

import (
	"crypto/cipher"
	"encoding/binary"
	"runtime"
	"sync"
)

const (
	// ChunkSize is the plaintext of one chunk of cape:v2.
	ChunkSize   = 64 << 10
	sealedChunk = ChunkSize + tagSize
	// batchChunks are sealed or opened together, so that each of two cores
	// has work worth a goroutine, and each write is large.
	batchChunks = 16
	batchSize   = batchChunks * ChunkSize
	sealedBatch = batchChunks * sealedChunk
	maxWorkers  = 4
)

// chunkNonce is the 11-byte big-endian counter and the last flag.
func chunkNonce(counter uint64, last bool) []byte {
	nonce := make([]byte, nonceSize)
	binary.BigEndian.PutUint64(nonce[3:], counter)
	if last {
		nonce[nonceSize-1] = 1
	}
	return nonce
}

// chunks is how many chunks n bytes of plaintext make.
func chunks(n int) int { return max(1, (n+ChunkSize-1)/ChunkSize) }

// spread calls f for each of n chunks, on as many goroutines as there are
// cores to use, and returns when all are done.
func spread(n int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers, n)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for i := w * n / workers; i < (w+1)*n/workers; i++ {
				f(i)
			}
		})
	}
	group.Wait()
}

// sealChunks seals plaintext as chunks numbered from first into dst, which has
// the room, and returns what it filled. If last, its last chunk ends the
// envelope; else plaintext is whole chunks.
func sealChunks(gcm cipher.AEAD, dst, plaintext []byte, first uint64, last bool) []byte {
	n := chunks(len(plaintext))
	spread(n, func(i int) {
		part := plaintext[i*ChunkSize : min((i+1)*ChunkSize, len(plaintext))]
		nonce := chunkNonce(first+uint64(i), last && i == n-1)
		gcm.Seal(dst[i*sealedChunk:i*sealedChunk], nonce, part, nil)
	})
	return dst[:len(plaintext)+n*tagSize]
}

// openChunks opens sealed, as many as batchChunks chunks numbered from first,
// into plain, which has the room, and returns what it filled and the number of
// chunks. Nothing is returned unless all of them are authentic. Errors:
// ErrTruncated if the end is a chunk that others should follow, ErrDamaged.
func openChunks(gcm cipher.AEAD, plain, sealed []byte, first uint64, last bool) ([]byte, int, error) {
	n := (len(sealed) + sealedChunk - 1) / sealedChunk
	part := func(i int) []byte { return sealed[i*sealedChunk : min((i+1)*sealedChunk, len(sealed))] }
	var bad [batchChunks]bool
	spread(n, func(i int) {
		nonce := chunkNonce(first+uint64(i), last && i == n-1)
		_, err := gcm.Open(plain[i*ChunkSize:i*ChunkSize], nonce, part(i), nil)
		bad[i] = err != nil
	})
	for i := range n {
		if !bad[i] {
			continue
		}
		var err error = ErrDamaged
		if last && i == n-1 {
			if _, open := gcm.Open(plain[:0], chunkNonce(first+uint64(i), false), part(i), nil); open == nil {
				err = ErrTruncated
			}
		}
		clear(plain)
		return nil, 0, err
	}
	return plain[:len(sealed)-n*tagSize], n, nil
}
