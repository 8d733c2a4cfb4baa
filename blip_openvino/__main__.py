"""`python -m blip_openvino` is the command `blip-ov`."""

from blip_openvino.apps.cli import main

main(prog_name="python -m blip_openvino")
