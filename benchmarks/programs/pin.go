// The server of github.com/pin/tftp as its documentation shows it: read and write files of a folder.
package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/pin/tftp"
)

func main() {
	address, folder := os.Args[1], os.Args[2]
	read := func(name string, to io.ReaderFrom) error {
		file, err := os.Open(filepath.Join(folder, filepath.Base(name)))
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = to.ReadFrom(file)
		return err
	}
	write := func(name string, from io.WriterTo) error {
		file, err := os.Create(filepath.Join(folder, filepath.Base(name)))
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = from.WriteTo(file)
		return err
	}
	if err := tftp.NewServer(read, write).ListenAndServe(address); err != nil {
		panic(err)
	}
}
