"""Real-time semantic segmentation of camera topics with BiSeNetV2."""

from pkgutil import extend_path

# The generated messages (`bisenetv2_ros.msg`) lie in the install tree. Joining all places of this
# package keeps them importable where the source tree comes first on the path, as it does for a
# Python started in the repository.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"  # the same as in package.xml
