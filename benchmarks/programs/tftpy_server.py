"""The server of tftpy as its documentation shows it."""

import sys

import tftpy

tftpy.TftpServer(sys.argv[3]).listen(sys.argv[1], int(sys.argv[2]))
