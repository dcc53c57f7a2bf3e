"""Real-time semantic segmentation of camera topics with BiSeNetV2."""

from pkgutil import extend_path

# The generated messages (`bisenetv2_ros.msg`) are in the install tree. Joining all directories of
# this package keeps them importable if the source tree comes first on the path, as in a Python that
# is started in the repository.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"  # the same as in package.xml
